"""Files appear whole or not at all, and a lock holds exactly one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nphm_core.durable import atomic_write, hold_lock, release_lock
from nphm_core.records import read_record, record_path, write_record

RECORD = {"scan": "a/b", "stage": "arap", "status": "ok", "reason": "", "artifacts": {}, "metrics": {}, "key": "k"}


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, str]]:
    """The order in which files are brought to the disk and renamed."""
    seen, sync, replace = [], os.fsync, os.replace

    def note_sync(handle):
        seen.append(("sync", str(Path(f"/proc/self/fd/{handle}").readlink())))
        sync(handle)

    def note_replace(old, new):
        seen.append(("replace", str(new)))
        seen.append(("from", str(old)))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    return seen


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_afterwards(tmp_path, calls):
    path = tmp_path / "x.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("all of it")
    assert calls == [
        ("sync", str(temporary)),
        ("replace", str(path)),
        ("from", str(temporary)),
        ("sync", str(tmp_path)),
    ]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"status": "great"}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_record_counts_as_none(tmp_path, content):
    write_record(tmp_path, "a/b", "arap", RECORD)
    assert read_record(tmp_path, "a/b", "arap") == RECORD
    with open(record_path(str(tmp_path), "a/b", "arap"), "wb") as file:
        file.write(content)
    assert read_record(tmp_path, "a/b", "arap") is None


def test_a_record_that_names_files_elsewhere_counts_as_none(tmp_path):
    facts = {"bytes": 1, "sha256": ""}
    for name in ("../x", "/etc/passwd", "a/b"):
        write_record(tmp_path, "a/b", "arap", RECORD | {"artifacts": {name: facts}})
        assert read_record(tmp_path, "a/b", "arap") is None


def test_a_lock_holds_another_process_back_until_it_is_released_or_its_holder_dies(tmp_path):
    path = tmp_path / "lock"
    code = (
        f"from nphm_core.durable import *; from pathlib import Path; print(hold_lock(Path({str(path)!r}), wait=False))"
    )
    handle = hold_lock(path)
    assert _output(code) == "None"
    release_lock(path, handle)
    assert not path.exists()
    # The process ends without releasing it.
    assert _output(code) != "None"
    assert _output(code) != "None"


def _output(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
