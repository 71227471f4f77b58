"""Back-off: pauses that double after each failure in a row."""

from __future__ import annotations


class Backoff:
    """Counts failures in a row, and computes the pause after each.

    Args:
        first: pause after the first failure, in seconds. Each further failure doubles it.
        longest: longest pause, in seconds.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest = first, longest
        self.failures = 0
        self.until = 0.0
        """End of the pause, on the caller's clock, in seconds."""

    def fail(self, now: float) -> float:
        """Count a failure, and return the length of the pause that starts now, in seconds."""
        pause = min(self._first * 2.0 ** min(self.failures, 60), self._longest)
        self.failures += 1
        self.until = now + pause
        return pause

    def succeed(self) -> None:
        self.failures = 0
        self.until = 0.0
