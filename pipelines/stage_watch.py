"""Do a stage's work in a child process, so that a scan that hangs or crashes the interpreter still gets its verdict.

The parent waits and does nothing else. The child says which scan and stage it is at; when that takes longer than
the limit of `nphm_core.time_limit`, or kills the child, the parent tells its caller and goes on with the next
scan in a new child. Being killed from outside (no memory, a node going down, a person) is trouble of the machine
and no verdict. Forking costs a millisecond: what the parent has imported is there.
"""

import contextlib
import faulthandler
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from nphm_core.time_limit import time_limit_s

log = logging.getLogger("nphm")

_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE)
"""Signals by which libraries of compiled code end on data that they do not expect."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Lost:
    """Work that did not come to an end."""

    scan_id: str
    stage: str
    how: Literal["time", "crash", "killed"]
    what: str
    """What happened, as the start of a sentence."""


Tell = Callable[[str, str], None]
"""Says which scan and which of its stages the child begins; without a stage, that the scan is done."""


def nobody(_scan_id: str, _stage: str) -> None:
    """Tell nobody."""


Work = Callable[[Sequence[str], Tell], int]
"""Works on scans in order, in the child, and gives its exit code."""


def watch(scan_ids: Sequence[str], work: Work, settle: Callable[[Lost], bool | None]) -> int:
    """Work on all scans; give the exit code: 0 if every one was settled, by `work` or, where it was lost, by `settle`.

    A crash is settled only if it happens twice: once can be bad luck. What happens to one scan costs no other one.
    """
    left, crashed, code = list(scan_ids), set[tuple[str, str]](), 0
    while left:
        n_done, child_code, lost = _run_child(left, work)
        left = left[n_done:]
        if lost is None:
            return max(child_code, code)
        if lost.how == "crash" and (lost.scan_id, lost.stage) not in crashed:
            crashed.add((lost.scan_id, lost.stage))
            log.warning("%s: %s in %s; it is tried once more", lost.scan_id, lost.what, lost.stage)
            continue
        is_settled = settle(lost)
        if lost.how == "killed" and not is_settled:
            code = 1
        left = left[1:]
    return code


def _run_child(scan_ids: Sequence[str], work: Work) -> tuple[int, int, Lost | None]:
    """Start a child; give how many scans it did, its exit code, and what was lost, if anything."""
    reader, writer = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _be_the_child(scan_ids, work, writer, parent)
    os.close(writer)
    try:
        return _follow(child, reader, scan_ids)
    finally:
        # Also when this process is interrupted.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
        os.close(reader)


def _be_the_child(scan_ids: Sequence[str], work: Work, writer: int, parent: int) -> None:
    code = 1
    try:
        _die_with(parent)
        # A group of its own, so that what it starts ends with it.
        os.setpgid(0, 0)
        with contextlib.suppress(RuntimeError, ValueError, OSError):  # a log that is no file
            faulthandler.enable()
            faulthandler.register(signal.SIGUSR1)
        code = work(scan_ids, lambda scan_id, stage: _say(writer, f"{scan_id}\t{stage}\n"))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        log.exception("unexpected error: please report it with this log")
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        # Not sys.exit: what the parent has to do at its end is not the child's to do.
        os._exit(code)


def _say(writer: int, line: str) -> None:
    os.write(writer, line.encode())


def _die_with(parent: int) -> None:
    """End with the parent: a scheduler that kills it must not leave an orphan that goes on writing."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _follow(child: int, reader: int, scan_ids: Sequence[str]) -> tuple[int, int, Lost | None]:
    limit_s, n_done, since, rest = time_limit_s(), 0, time.monotonic(), b""
    scan_id, stage = scan_ids[0], ""
    while True:
        wait_s = since + limit_s - time.monotonic()
        if not select.select([reader], [], [], max(wait_s, 0.0))[0]:
            _show_where(child)
            return n_done, 1, Lost(scan_id, stage, "time", f"the time limit of {limit_s:g} s was reached")
        data = os.read(reader, 65536)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            scan_id, stage = line.decode().split("\t")
            n_done, since = n_done + (not stage), time.monotonic()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return n_done, code, None
    name = signal.Signals(-code).name
    if -code in _CRASHES:
        return n_done, code, Lost(scan_id, stage, "crash", f"the interpreter crashed ({name})")
    return n_done, code, Lost(scan_id, stage, "killed", f"the process was killed ({name})")


def _show_where(child: int) -> None:
    """Let the child write where it hangs into the log."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGUSR1)
        time.sleep(0.5)
