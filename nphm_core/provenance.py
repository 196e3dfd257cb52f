"""Where a scan's results come from: versions, settings, seed, durations and memory, in one JSON for each scan.

`provenance.json` lies in the scan's folder. It tells of times and machines, so it is no artifact: nothing depends on
it, and two runs that give the same results differ in it. Standard library only.
"""

import json
import os
import platform
import resource
import sys
import time
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nphm_core.durable import atomic_write, hold_lock, release_lock
from nphm_core.records import digest_of, scan_folder

FILE = "provenance.json"
_PACKAGES = (
    "nphm", "numpy", "scipy", "numba", "libigl", "embreex", "mediapipe", "opencv-contrib-python", "pillow", "pymeshlab",
    "pyrender", "trimesh", "safetensors", "snakemake",
)  # fmt: skip

# Linux counts in KiB, macOS in bytes.
_MAXRSS_PER_MB = 1024**2 if sys.platform == "darwin" else 1024


class Stopwatch:
    """Measures one stage's work on one scan, from its making to `facts`."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.monotonic(), _cpu_s()

    def facts(self) -> dict[str, Any]:
        """Give wall and CPU seconds, and the largest memory that this process or one it started has had so far."""
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return {
            "wall_s": round(time.monotonic() - self._wall_s, 3),
            "cpu_s": round(_cpu_s() - self._cpu_s, 3),
            "peak_mb": round(max(usage.ru_maxrss for usage in usages) / _MAXRSS_PER_MB),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def note_provenance(
    results: Path, scan_id: str, stage: str, version_of_stage: int, settings: dict[str, Any], facts: dict[str, Any]
) -> None:
    """Add what a stage did to the scan's file; `facts` has status, seed, and what the stopwatch gave."""
    path = scan_folder(results, scan_id) / FILE
    lock = path.with_name(f".{FILE}.lock")
    handle = hold_lock(lock)
    try:
        known = read_provenance(results, scan_id)
        made_by = {"software": _software(), "machine": _machine()}
        shared = {key: value for key, value in made_by.items() if known["stages"] == {} or known.get(key) == value}
        # What another machine or version made says so itself.
        own = {key: value for key, value in made_by.items() if key not in shared}
        digest = {"version": version_of_stage, "settings_sha256": digest_of(settings), "settings": settings}
        known |= shared | {"scan": scan_id}
        known["stages"][stage] = digest | facts | own
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    finally:
        if handle is not None:
            release_lock(lock, handle)


def read_provenance(results: Path, scan_id: str) -> dict[str, Any]:
    """Read a scan's file; without any stages if there is none, or a damaged one."""
    try:
        found = json.loads((scan_folder(results, scan_id) / FILE).read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) and isinstance(found.get("stages"), dict) else {"stages": {}}


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@lru_cache(maxsize=1)
def _software() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            # Environments of single steps lack what these do not need.
            continue
    return found


@lru_cache(maxsize=1)
def _machine() -> dict[str, Any]:
    return {"system": f"{platform.system()} {platform.machine()}", "processor": _processor(), "cores": os.cpu_count()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
