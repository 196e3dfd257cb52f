"""Only the latest wish counts, and what is slow waits until the hand rests."""

import threading

import pytest

from nphm_core.viewing.latest import LatestWorker


class Recorder:
    """Holds the quick step back until it is let go, and keeps what was asked."""

    def __init__(self):
        self.quick_calls, self.proper_calls, self.failures = [], [], []
        self.gate, self.entered, self.rested = threading.Semaphore(0), threading.Semaphore(0), threading.Event()

    def quick(self, wish, is_late):
        self.quick_calls.append(wish)
        self.entered.release()
        assert self.gate.acquire(timeout=10)
        if wish == "bad":
            raise ValueError("no such head")

    def proper(self, wish, is_late):
        self.proper_calls.append((wish, is_late()))
        self.rested.set()


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def worker(recorder):
    worker = LatestWorker(recorder.quick, recorder.proper, rest_s=0.05, failed=recorder.failures.append)
    yield worker
    recorder.gate.release(100)
    worker.stop()


def test_what_was_asked_in_between_is_never_done(worker, recorder):
    worker.submit(1)
    assert recorder.entered.acquire(timeout=10)
    for wish in (2, 3, 4):
        worker.submit(wish)
    recorder.gate.release(2)
    assert recorder.rested.wait(10)
    assert recorder.quick_calls == [1, 4]
    assert recorder.proper_calls == [(4, False)]


def test_a_failure_is_told_and_the_next_wish_is_done(worker, recorder, caplog):
    recorder.gate.release(2)
    worker.submit("bad")
    assert recorder.rested.wait(10)
    recorder.rested.clear()
    worker.submit("good")
    assert recorder.rested.wait(10)
    assert recorder.quick_calls == ["bad", "good"]
    assert [str(error) for error in recorder.failures] == ["no such head"]
    assert "a head could not be shown" in caplog.text
