"""Workers that refuse the tasks of a run: they cannot reach its folders, or may not do its tasks."""

from __future__ import annotations

import time

from imageloom.errors import TaskRefused
from imageloom.model import Result
from imageloom.scheduling.inbox import log

PATIENCE = 20.0
"""Time in seconds for which refused tasks wait for other workers. After it, their items fail."""


def refusal_of(result: Result | None) -> str:
    """Why a worker refuses a task, as text; empty if the result is no refusal."""
    failure = result.failure if result else None
    return failure.message if failure and failure.kind == TaskRefused.__name__ else ""


class Refusals:
    """Which workers refuse a run's tasks, and since when no worker has done any."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}
        self._since = float("inf")

    def note(self, worker: str, reason: str) -> None:
        """Note a refusal of a worker."""
        if worker not in self._reasons:
            log.warning("worker %s gets no tasks of this run: %s", worker, reason)
        self._reasons[worker] = reason
        self._since = min(self._since, time.monotonic())

    def clear(self) -> None:
        """A worker has done an item: tasks that others refuse wait for it."""
        self._since = float("inf")

    def are_final(self, workers: int) -> bool:
        """Whether the items of refused tasks fail.

        Args:
            workers: number of workers.
        """
        return len(self._reasons) >= workers and time.monotonic() > self._since + PATIENCE

    def __str__(self) -> str:
        return "; ".join(f"{worker} refuses them: {reason}" for worker, reason in self._reasons.items())
