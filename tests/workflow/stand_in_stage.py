"""A stage that does next to nothing, for tests of what runs when; copied under each stage's name."""

import errno
import json
import os
import time
from pathlib import Path

from nphm_core.errors import FaceNotFoundError, NphmError, ScanFileError
from nphm_core.io.verdicts import VARIABLE
from nphm_core.stages import STAGES
from pipelines.stage_command import scan_row, stage_command

NAME = Path(__file__).stem


def process(job):
    """Write every artifact; a scan whose file says so has no face, hangs, is slow, or fills the disk."""
    metrics = {}
    if NAME == "landmarks":
        _trouble(job.record("ingest")["metrics"]["text"])
    if NAME == "ingest":
        metrics["row"] = scan_row(job.options, job.scan_id)
        metrics["text"] = _read(Path(metrics["row"]["path"]))
    elif NAME == "evaluate":
        failed = [stage for stage in STAGES[NAME].needs if job.record(stage)["status"] != "ok"]
        if failed:
            raise NphmError(f"the stage {failed[0]} has no result")
        metrics |= {"verdict": "ok", "stage": "", "reasons": [], "unit": "mm", "stage_warnings": []}
    for name in STAGES[NAME].artifacts:
        text = f"{name} of {job.scan_id} with {job.settings}"
        (job.out / name).write_text(json.dumps({"text": text}) if name.endswith(".json") else text)
    return metrics


def _trouble(text):
    if "no face" in text:
        raise FaceNotFoundError("no face was found in any view")
    if "needs memory" in text:
        tried = Path("landmarks.tried")
        if not tried.exists():
            tried.write_text(os.environ["SLURM_JOB_ID"])
        if tried.read_text() == os.environ["SLURM_JOB_ID"]:
            raise MemoryError("too little for this scan")
    if "waits" in text:
        Path("landmarks.waits").write_text(os.environ["SLURMD_NODENAME"])
        while not Path("landmarks.go").exists():
            time.sleep(0.2)
    if "hangs" in text:
        time.sleep(600)
    if "slow" in text:
        Path("landmarks.started").touch()
        time.sleep(3)
    if "fills the disk" in text and not Path("disk.free").exists():
        raise OSError(errno.ENOSPC, "No space left on device", "results/somewhere")


def add_options(parser):
    """Add what only ingest asks for."""
    parser.add_argument("--table")
    parser.add_argument("--verdicts", type=Path, default=os.environ.get(VARIABLE) or None)
    parser.add_argument("--canonical")


def _read(path):
    if not path.is_file():
        raise ScanFileError("the scan's file does not exist")
    return path.read_text()


if __name__ == "__main__":
    stage_command(NAME, process, extra=add_options if NAME == "ingest" else None)
