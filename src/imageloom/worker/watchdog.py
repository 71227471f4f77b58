"""Finds work in this process that takes longer than its time-out. A thread cannot be ended, but abandoned."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

LONGEST_PAUSE = 5.0
"""Maximum seconds between two checks."""
SHARE = 0.1
"""A check is late by at most this part of the time-out."""


class Watchdog:
    """A thread that checks what is in progress.

    Args:
        timeout: time-out of one piece of work, in seconds.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._running: dict[int, tuple[float, Callable[[], None]]] = {}
        """By number: when it began, and what is called if it is late."""
        self._numbers = itertools.count()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._check, name="watchdog", daemon=True)
        self._thread.start()

    def begin(self, late: Callable[[], None]) -> int:
        """Note that work has begun. Returns its number. `late` is called in another thread, at most once."""
        number = next(self._numbers)
        self._running[number] = time.monotonic(), late
        return number

    def end(self, number: int) -> bool:
        """Note that work has ended. Returns whether it was in time; if not, `late` was called or will be."""
        return self._running.pop(number, None) is not None

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _check(self) -> None:
        while not self._over.wait(min(LONGEST_PAUSE, SHARE * self._timeout)):
            limit = time.monotonic() - self._timeout
            for number, (began, late) in list(self._running.items()):
                if began < limit and self.end(number):
                    late()
