"""What is no verdict on a scan but trouble of the machine, how it is told, and how one process works alone."""

import contextlib
import errno
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from nphm_core.durable import hold_lock, release_lock
from nphm_core.errors import DamagedFileError, TemplateError, TopologyError
from nphm_core.records import stage_lock, write_trouble
from pipelines.stage_watch import Tell, nobody

log = logging.getLogger("nphm")

NO_VERDICT = (MemoryError, OSError, DamagedFileError, TemplateError, TopologyError)
"""Trouble of the machine, or with a file that this project wrote: no fault of the scan, so the job is tried again."""

_WAIT_S = 0.5
_WORDS = {
    errno.ENOSPC: "the disk is full; expected room for results. Free some, then run again",
    errno.EDQUOT: "the disk quota is used up; expected room for results. Free some, then run again",
    errno.EROFS: "the results cannot be written: the file system is read-only. Make it writable, then run again",
    errno.EACCES: "a file may not be read or written; expected permission for it. Grant it, then run again",
    errno.EMFILE: "too many files are open; expected a higher limit. Raise `ulimit -n`, then run again",
    errno.ESTALE: "the file server lost a file that was open; expected it to stay. Run again",
}


def trouble_text(error: BaseException) -> str:
    """Say what is wrong with the machine, what was expected and what to do; the path comes last."""
    if isinstance(error, MemoryError):
        return f"the memory was not enough; expected some left. Run again with fewer --cores or more memory. {error}"
    if not isinstance(error, OSError):
        return str(error)
    words = _WORDS.get(error.errno or 0)
    if words is None:
        words = f"the system refused ({error.strerror or error}); expected to read and write. See the log, run again"
    return f"{words}. File {error.filename or 'unknown'}"


def note_trouble(results: Path, scan_id: str, stage: str, text: str) -> None:
    """Log trouble, and keep it beside the record that is missing because of it."""
    log.error("%s: no result of %s: %s", scan_id, stage, text)
    write_trouble(results, scan_id, stage, text)


@contextlib.contextmanager
def alone(results: Path, scan_id: str, stage: str, tell: Tell = nobody) -> Iterator[None]:
    """Be the only process that works on a stage of a scan; wait for another one to end first.

    `tell` is told again and again meanwhile: waiting is not hanging.
    """
    path = stage_lock(results, scan_id, stage)
    handle = hold_lock(path, wait=False)
    if handle is None:
        log.info("%s: another process works on %s; waiting for it", scan_id, stage)
    while handle is None:
        time.sleep(_WAIT_S)
        tell(scan_id, stage)
        handle = hold_lock(path, wait=False)
    try:
        yield
    finally:
        release_lock(path, handle)
