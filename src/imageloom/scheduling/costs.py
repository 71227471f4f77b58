"""The expected time of an item: computed from its pixels and from the measured times of other items."""

from __future__ import annotations

from imageloom.model import Result, Task, Work

FIXED = 250_000
"""Fixed cost of an item, expressed as a number of pixels that take the same time."""
SHARE = 0.1
"""Weight of the latest item in the running mean, from 0 to 1."""
FIRST = 1.0
"""Assumed time of an item of `FIXED` pixels, in seconds, before the first measurement. It is high, so that no
item counts as slow at first."""


class Costs:
    """A running mean of the seconds per pixel."""

    def __init__(self) -> None:
        self._rate = FIRST / FIXED
        self.mean = FIRST
        """Running mean of the seconds per item of any size."""

    def observe(self, work: Work, task: Task, result: Result) -> None:
        """Add the time of a finished item, as its worker reported it."""
        seconds = result.times.total
        if result.failure is None and 0.0 <= seconds < 1e6:
            self.mean += SHARE * (seconds - self.mean)
            self._rate += SHARE * (seconds / _weight(work, task) - self._rate)

    def expected(self, work: Work, task: Task) -> float:
        """Expected time of an item, in seconds."""
        return self._rate * _weight(work, task)


def _weight(work: Work, task: Task) -> int:
    part = task.part
    if part is not None:
        return FIXED + part.write.width * part.write.height
    return FIXED + (work.header.frame.pixels if work.header else 0)
