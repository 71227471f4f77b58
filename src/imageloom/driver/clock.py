"""The driver's time, its chance, and the queue in which it waits: the real ones. A simulation has others."""

from __future__ import annotations

import time
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Protocol

from imageloom.model import Outcome

Finished = tuple[int, Future[Outcome]] | None
"""The number of a task that is over, with its future; None to wake the driver."""


class Waiting(Protocol):
    """A queue that the driver waits in."""

    def put(self, item: Finished) -> None:
        """Add an item. From any thread."""

    def get(self, *, timeout: float | None) -> Finished:
        """The first item; waits for it for so many seconds, or without a limit.

        Raises:
            queue.Empty: there was none.
        """

    def empty(self) -> bool: ...


class Clock:
    """The real time."""

    monotonic = staticmethod(time.monotonic)
    """Seconds; it never goes back."""

    def random(self) -> float:
        """A number from 0 to 1, drawn."""
        import random  # costs milliseconds that a run without failures need not wait for

        return random.random()

    def queue(self) -> Waiting:
        """A new queue."""
        return SimpleQueue()


REAL = Clock()
