"""The power goes while results are written: what is on the disk then holds no record without its whole artifacts.

A file system in a file stands for the disk: what the kernel has not brought to it yet is not in that file, and so is
missing in a copy, as after a power cut.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nphm_core.records import current_record, hidden_record, read_record

pytestmark = pytest.mark.slow

WRITER = """
import argparse, sys
from pathlib import Path
from nphm_core.config import SubdivideConfig
from nphm_core.records import write_record
from nphm_core.stages import Stage
from pipelines.stage_command import run_stage

stage = Stage("subdivide", 1, artifacts=("subdivided.ply", "subdivided.json"))
options = argparse.Namespace(results=sys.argv[1], seed=0)

def process(job):
    for name in stage.artifacts:
        (job.out / name).write_bytes(job.scan_id.encode() * 50_000)
    return {}

for number in range(100_000):
    run_stage(stage, process, f"s{number}/rest", SubdivideConfig(), options)
    print(number, flush=True)
"""


def run(*command: object) -> bool:
    return subprocess.run(list(map(str, command)), capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A disk in a file, mounted."""
    image, folder = tmp_path / "disk", tmp_path / "mounted"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(200 << 20)
    if not (shutil.which("mkfs.ext4") and run("mkfs.ext4", "-q", image) and run("mount", "-o", "loop", image, folder)):
        pytest.skip("no right or no tools to mount a disk in a file")
    yield image, folder
    run("umount", "--lazy", folder)


def test_no_record_names_what_a_power_cut_has_taken(disk, tmp_path):
    image, folder = disk
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder / "results")], stdout=subprocess.PIPE, text=True
    )
    checked = 0
    try:
        for cut in range(4):
            last = int(writer.stdout.readline())
            time.sleep(0.3 + 0.17 * cut)
            os.kill(writer.pid, signal.SIGSTOP)
            after = tmp_path / f"after-{cut}"
            shutil.copy(image, after)
            os.kill(writer.pid, signal.SIGCONT)
            checked += check(after, tmp_path / f"mounted-{cut}", last)
    finally:
        writer.kill()
        writer.communicate()
    assert checked > 10


def check(image: Path, folder: Path, last: int) -> int:
    """Look at the disk after the cut; give the number of records found."""
    folder.mkdir()
    assert run("mount", "-o", "loop", image, folder)
    try:
        results, found = folder / "results", 0
        for place in sorted(results.glob("scans/*/*")):
            scan_id = f"{place.parent.name}/{place.name}"
            record = read_record(results, scan_id, "subdivide")
            if record is None:
                continue
            found += 1
            hidden = hidden_record(results, scan_id, "subdivide") or {}
            # What it has seen of the disk is for finding changes quickly, and is the hidden record's alone.
            assert {key: value for key, value in hidden.items() if key != "seen"} == record
            assert current_record(results, scan_id, "subdivide", record["key"]) is not None, scan_id
        # What was told to be done is there.
        assert read_record(results, f"s{last}/rest", "subdivide") is not None
        return found
    finally:
        run("umount", "--lazy", folder)
