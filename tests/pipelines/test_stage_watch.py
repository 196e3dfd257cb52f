"""A scan that hangs, crashes or is killed: who gets a verdict, and that nobody else is disturbed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nphm_core.time_limit import VARIABLE
from pipelines.stage_watch import watch

SCANS = ("a", "b", "c")


class Scans:
    """Work that does to each scan what a test tells it, and writes down what was done."""

    def __init__(self, folder: Path, **troubles) -> None:
        self.log, self.troubles, self.lost = folder / "log", troubles, []
        self.log.write_text("")

    def __call__(self, scan_ids, tell) -> int:
        for scan_id in scan_ids:
            tell(scan_id, "arap")
            with self.log.open("a") as stream:
                stream.write(scan_id)
            self.troubles.get(scan_id, lambda: None)()
            tell(scan_id, "")
        return 0

    def watch(self) -> int:
        return watch(SCANS, self, self.lost.append)


def test_work_without_trouble_is_done_once(tmp_path):
    scans = Scans(tmp_path)
    assert scans.watch() == 0
    assert (scans.log.read_text(), scans.lost) == ("abc", [])


def hang_in_compiled_code():
    # No Python is run in here, so no exception could end it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGALRM])
    time.sleep(600)


def test_a_scan_that_hangs_is_given_up_and_the_others_are_made(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "1.0")
    scans = Scans(tmp_path, b=hang_in_compiled_code)
    started = time.monotonic()
    assert scans.watch() == 0
    assert time.monotonic() - started < 30
    assert scans.log.read_text() == "abc"
    assert [(lost.scan_id, lost.stage, lost.how) for lost in scans.lost] == [("b", "arap", "time")]


def test_a_scan_that_crashes_the_interpreter_twice_is_given_up(tmp_path):
    scans = Scans(tmp_path, b=lambda: os.kill(os.getpid(), signal.SIGSEGV))
    assert scans.watch() == 0
    assert scans.log.read_text() == "abbc"
    assert [(lost.scan_id, lost.how) for lost in scans.lost] == [("b", "crash")]


def test_a_crash_that_does_not_happen_again_is_forgotten(tmp_path):
    scans = Scans(tmp_path)

    def crash_once():
        if scans.log.read_text() == "ab":
            os.abort()

    scans.troubles["b"] = crash_once
    assert scans.watch() == 0
    assert (scans.log.read_text(), scans.lost) == ("abbc", [])


def test_a_killed_process_is_no_verdict_and_the_next_scan_is_made(tmp_path):
    scans = Scans(tmp_path, b=lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert scans.watch() == 1
    assert scans.log.read_text() == "abc"
    assert [(lost.scan_id, lost.how) for lost in scans.lost] == [("b", "killed")]


def test_an_exit_code_is_passed_on(tmp_path):
    assert watch(SCANS, lambda scan_ids, tell: 3, lambda lost: None) == 3


def test_the_child_ends_with_a_killed_parent(tmp_path):
    code = (
        "import os, time\n"
        "from pipelines.stage_watch import watch\n"
        "def work(scans, tell):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(600)\n"
        "watch(['a'], work, print)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    for _ in range(100):
        if not _is_running(child):
            return
        time.sleep(0.1)
    pytest.fail("the child goes on without its parent")


def _is_running(process: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
