"""The queue of items that wait for a worker. Jobs take turns, and suspects come last."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass

from imageloom.scheduling.protocol import Ticket


@dataclass(eq=False, slots=True)
class Run:
    """Items of one task that wait together."""

    ticket: Ticket
    places: list[int]
    since: float
    """Time at which they were queued."""
    is_suspect: bool = False
    """Whether they are suspects, which run alone: an attempt at one of them failed, or may have killed a
    worker."""

    def __post_init__(self) -> None:
        self.is_suspect |= self.ticket.is_suspect


class Queue:
    """Two queues: items without a failed attempt, from each job in turn, and suspects in the order of arrival."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, deque[Run]] = OrderedDict()
        """The first job is the next one to be served."""
        self._fresh = 0
        self._suspects: deque[Run] = deque()

    def __len__(self) -> int:
        return self._fresh + len(self._suspects)

    def __iter__(self) -> Iterator[Run]:
        for runs in self._jobs.values():
            yield from runs
        yield from self._suspects

    @property
    def has_fresh(self) -> bool:
        return self._fresh > 0

    @property
    def has_suspects(self) -> bool:
        return bool(self._suspects)

    @property
    def first(self) -> Run:
        """The next run to be served. Suspects come last."""
        return next(iter(self))

    def suspect_waits_since(self) -> float:
        """Time at which the first suspect was queued; infinity if there is none."""
        return self._suspects[0].since if self._suspects else float("inf")

    def put(self, run: Run, first: bool = False) -> None:
        """Add items: at the end, or with `first` before all others of their kind."""
        if run.is_suspect:
            queue = self._suspects
        else:
            queue = self._jobs.setdefault(run.ticket.task.job, deque())
            self._fresh += 1
        (queue.appendleft if first else queue.append)(run)

    def pop_fresh(self) -> Run:
        """Remove and return the next items of the job whose turn it is."""
        job, runs = next(iter(self._jobs.items()))
        run = runs.popleft()
        self._fresh -= 1
        if runs:
            self._jobs.move_to_end(job)
        else:
            del self._jobs[job]
        return run

    def pop_suspect(self) -> Run:
        return self._suspects.popleft()

    def clear(self) -> list[Run]:
        """Remove and return everything."""
        found = list(self)
        self._jobs.clear()
        self._suspects.clear()
        self._fresh = 0
        return found
