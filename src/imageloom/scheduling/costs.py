"""What an item should cost: seconds expected from its pixels, by what others of the same kind have taken."""

from __future__ import annotations

from imageloom.model import Result, Task, Work

FIXED = 250_000
"""Pixels that what does not depend on the size of an item costs as much as."""
SHARE = 0.1
"""Weight of the latest item in the running mean."""
FIRST = 1.0
"""Seconds that an item of `FIXED` pixels seems to cost until one has been measured: high, so that nothing seems
slow at first."""


class Costs:
    """A running mean of seconds for each pixel."""

    def __init__(self) -> None:
        self._rate = FIRST / FIXED
        self.mean = FIRST
        """Seconds of an item, whatever its size."""

    def observe(self, work: Work, task: Task, result: Result) -> None:
        """Take note of the seconds that an item has taken, as its worker says."""
        seconds = result.times.total
        if result.failure is None and 0.0 <= seconds < 1e6:
            self.mean += SHARE * (seconds - self.mean)
            self._rate += SHARE * (seconds / _weight(work, task) - self._rate)

    def expected(self, work: Work, task: Task) -> float:
        """Seconds that an item should take."""
        return self._rate * _weight(work, task)


def _weight(work: Work, task: Task) -> int:
    part = task.part
    if part is not None:
        return FIXED + part.write.width * part.write.height
    return FIXED + (work.header.frame.pixels if work.header else 0)
