"""A log of its own for each scan of a job that works on several."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def own_log(folder: str | None, stage: str, scan_id: str) -> Iterator[None]:
    """Write what a stage says of a scan to `folder/STAGE/SCAN.log`, also what compiled libraries say; None: do not."""
    if not folder:
        yield
        return
    path = Path(folder) / stage / f"{scan_id}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file, _streams_kept():
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        yield


@contextlib.contextmanager
def _streams_kept() -> Iterator[None]:
    _flush()
    kept = [os.dup(number) for number in (1, 2)]
    try:
        yield
    finally:
        _flush()
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
