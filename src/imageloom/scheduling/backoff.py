"""Pauses that double: before a worker that died at its start is replaced, before a server is asked again."""

from __future__ import annotations


class Backoff:
    """Counts failures in a row.

    Args:
        first: seconds of the pause after the first failure; each further one doubles it.
        longest: seconds of the longest pause.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest = first, longest
        self.failures = 0
        self.until = 0.0
        """When the pause is over, by the caller's clock."""

    def fail(self, now: float) -> float:
        """Note a failure; returns the seconds of the pause that begins now."""
        pause = min(self._first * 2.0 ** min(self.failures, 60), self._longest)
        self.failures += 1
        self.until = now + pause
        return pause

    def succeed(self) -> None:
        self.failures = 0
        self.until = 0.0
