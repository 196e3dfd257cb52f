"""Work that follows a person's hand: only the latest wish counts, and what is slow waits until the hand rests."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Wish = TypeVar("Wish")


class LatestWorker(Generic[Wish]):
    """Calls `quick` for the latest wish, and `proper` once no newer one has come for a while.

    Both get the wish and a function that tells whether a newer one is there; what they show is their own affair. Errors
    are logged and given to `failed`, and the worker goes on.
    """

    def __init__(
        self,
        quick: Callable[[Wish, Callable[[], bool]], None],
        proper: Callable[[Wish, Callable[[], bool]], None],
        *,
        rest_s: float = 0.5,
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        """Start the thread; it ends with the process, or with `stop`."""
        self._quick, self._proper, self._rest_s, self._failed = quick, proper, rest_s, failed
        self._changed = threading.Condition()
        self._wish: Wish | None = None
        self._number, self._stopped = 0, False
        self._thread = threading.Thread(target=self._work, daemon=True, name="heads")
        self._thread.start()

    def submit(self, wish: Wish) -> None:
        """Ask for something new; what was asked before and is not done yet is forgotten."""
        with self._changed:
            self._wish, self._number = wish, self._number + 1
            self._changed.notify()

    def stop(self) -> None:
        """End the thread after what it is at."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        done = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda seen=done: self._stopped or self._number != seen)  # type: ignore[misc]
                if self._stopped:
                    return
                wish, done = self._wish, self._number
            assert wish is not None
            self._call(self._quick, wish, done)
            if self._rests(done):
                self._call(self._proper, wish, done)

    def _rests(self, number: int) -> bool:
        """Wait, and tell whether no newer wish came."""
        until = time.monotonic() + self._rest_s
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._number != number, max(0.0, until - time.monotonic()))
            return not self._stopped and self._number == number

    def _call(self, step: Callable[[Wish, Callable[[], bool]], None], wish: Wish, number: int) -> None:
        try:
            step(wish, lambda: self._number != number)
        # Whatever a slider leads to must not end the viewer.
        except Exception as error:
            log.exception("a head could not be shown")
            if self._failed is not None:
                self._failed(error)
