"""The latest outcomes of items, by job, in the order in which they arrived: for callers that follow a job."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Literal

from imageloom.model import Plain, Result, Times
from imageloom.records.events import Done, Event, Failed, Retried, Skipped

MOST_KEPT = 2000
"""Number of outcomes of a job that a caller may have missed."""
MOST_JOBS = 64
"""Number of jobs whose outcomes are kept, also after their end."""


class Outcome(Plain, frozen=True, forbid_unknown_fields=False):
    """What happened to an item."""

    key: str
    kind: Literal["done", "failed", "retried", "skipped"]
    attempt: int = 0
    worker: str = ""
    outputs: dict[str, int] = {}  # noqa: RUF012 - msgspec copies it
    """Sizes in bytes, by name."""
    failure: str = ""
    """The failure's kind."""
    message: str = ""
    """Why it failed or was skipped."""
    pause: float = 0.0
    """Seconds until the next attempt."""
    times: Times = Times()
    dropped: tuple[str, ...] = ()
    """What the outputs lack of the input."""
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, event: Event) -> Outcome | None:
        """The outcome in an event; None if it has none."""
        match event:
            case Done(result, attempt, worker):
                return cls._of(result, "done", attempt, worker)
            case Failed(result, attempt, worker):
                return cls._of(result, "failed", attempt, worker)
            case Retried(result, attempt, worker, pause):
                return cls._of(result, "retried", attempt, worker, pause)
            case Skipped(item, reason):
                return cls(item.key, "skipped", message=reason)
        return None

    @classmethod
    def _of(
        cls,
        result: Result,
        kind: Literal["done", "failed", "retried"],
        attempt: int,
        worker: str,
        pause: float = 0.0,
    ) -> Outcome:
        kind_of, message = (result.failure.kind, result.failure.message) if result.failure else ("", "")
        sizes = {written.name: written.size for written in result.written}
        return cls(
            result.key, kind, attempt, worker, sizes, kind_of, message, pause, result.times,
            result.dropped, result.warnings,
        )  # fmt: skip


class Outcomes:
    """The latest events with outcomes, of each job. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: OrderedDict[int, tuple[int, deque[Event]]] = OrderedDict()
        """For each job: the number of its last outcome, and the latest events."""

    def add(self, job: int, event: Event) -> None:
        """Add an event; those without an outcome are ignored. It is converted when it is read."""
        if not isinstance(event, (Done, Failed, Retried, Skipped)):
            return
        with self._lock:
            number, kept = self._jobs.get(job) or (0, deque(maxlen=MOST_KEPT))
            kept.append(event)
            self._jobs[job] = number + 1, kept
            self._jobs.move_to_end(job)
            if len(self._jobs) > MOST_JOBS:
                self._jobs.popitem(last=False)

    def after(self, job: int, number: int, most: int = 500) -> tuple[list[Outcome], int, bool]:
        """The outcomes of a job after this one.

        Returns:
            They, the number of the last of them, and whether some before them are missing: they are no longer
            kept, or are from before the service was started.
        """
        with self._lock:
            last, kept = self._jobs.get(job) or (0, deque())
            first = last - len(kept)
            begin = max(number, first) if number <= last else first
            events = list(kept)[begin - first : begin - first + most]
        found = [outcome for event in events if (outcome := Outcome.of(event))]
        return found, begin + len(events), begin != number
