"""Items that wait for a worker: each job in turn, and what failed before behind the others."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass

from imageloom.scheduling.protocol import Ticket


@dataclass(eq=False, slots=True)
class Run:
    """Items of a task that wait together, by their places in it."""

    ticket: Ticket
    places: list[int]
    since: float
    """When they came here."""
    is_suspect: bool = False
    """They run alone: an attempt at one of them has failed before, or may have ended a worker."""

    def __post_init__(self) -> None:
        self.is_suspect |= self.ticket.is_suspect


class Queue:
    """Two queues: items without a failed attempt, in turns by job, and suspects in the order of their arrival."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, deque[Run]] = OrderedDict()
        """The first job is the next to be served."""
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
        """What is served next; suspects come last."""
        return next(iter(self))

    def suspect_waits_since(self) -> float:
        """When the first suspect came here; infinity where there is none."""
        return self._suspects[0].since if self._suspects else float("inf")

    def put(self, run: Run, first: bool = False) -> None:
        """Add items; before all others of their kind where `first`."""
        if run.is_suspect:
            queue = self._suspects
        else:
            queue = self._jobs.setdefault(run.ticket.task.job, deque())
            self._fresh += 1
        (queue.appendleft if first else queue.append)(run)

    def pop_fresh(self) -> Run:
        """The next items of the job whose turn it is."""
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
