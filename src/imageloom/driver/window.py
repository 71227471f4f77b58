"""The window: the tasks that the engine has, and the items that wait for another attempt."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field

from msgspec.structs import replace

from imageloom.driver.batches import Ready
from imageloom.errors import EngineFailed, WorkerLost
from imageloom.model import Failure, Outcome, Part, Result, Task, Work
from imageloom.records.faults import failure_of

DEPTH = 3
"""Tasks in flight for each worker: one that runs, and two so that none waits for the driver."""
MOST_SUSPECTS = 100
"""Tasks in flight beyond the window that failed before."""
LATE = 0.25
"""Seconds after which a task's results are taken in one by one, and not all together at its end."""
FIRST_PAUSE = 0.1
"""Seconds before the second attempt; each further one waits twice as long, and up to twice that by chance."""


@dataclass(eq=False)
class Flight:
    """A task that the engine has."""

    task: Task
    bytes: int
    telling: set[Flight]
    """The window's flights with results that wait for the end of their tasks."""
    wake: Callable[[], None]
    """Called from any thread when the first of such results is there."""
    future: Future[Outcome] = field(init=False)
    """Set as soon as the engine has given it; results may arrive before."""
    since: float = field(default_factory=time.monotonic)
    arrived: dict[int, Result] = field(default_factory=dict)
    """Results that are there before the task's end, by the item's place; the engine's threads fill it."""
    taken: set[int] = field(default_factory=set)
    """Places of the results that were taken in already."""

    def tell(self, place: int, result: Result) -> None:
        """Take note of a result: for the engine, from any thread."""
        self.arrived[place] = result
        self.telling.add(self)
        if len(self.telling) == 1:
            self.wake()

    def outcome(self) -> Outcome:
        """What came of the task, which is over: of an exception, a failure of each item.

        Raises:
            EngineFailed: the engine cannot go on.
        """
        try:
            error = self.future.exception()
        except CancelledError as cancelled:
            error = cancelled
        if error is None:
            return self.future.result()
        if isinstance(error, EngineFailed):
            raise error
        if isinstance(error, CancelledError):
            error = WorkerLost("the engine cancelled it")
        if isinstance(error, WorkerLost):
            failure = Failure.of(error if str(error) else WorkerLost("the worker died"))
        elif isinstance(error, KeyboardInterrupt):  # an operator's: Ctrl-C is not raised in a worker
            failure = Failure.of(error)
        else:
            failure = failure_of(self.task.work[0].item.key, error)
        return Outcome(self.task.id, "", tuple(Result(w.item.key, failure=failure) for w in self.task.work))

    def take_arrived(self) -> list[tuple[Work, Result]]:
        """What has arrived since the last time."""
        self.telling.discard(self)  # what arrives from now on adds it again
        new = [place for place in list(self.arrived) if place not in self.taken]
        self.taken.update(new)
        return [(self.task.work[place], self.arrived[place]) for place in new]

    def take_rest(self, results: tuple[Result, ...]) -> list[tuple[Work, Result]]:
        """What is left of the task's results."""
        every = enumerate(zip(self.task.work, results, strict=True))
        return [pair for place, pair in every if place not in self.taken]


class Window:
    """What is in flight, by the tasks' numbers, and how much of it may be.

    Asked for every task with a hundred others in flight, so that no answer looks at all of them.

    Args:
        memory: bytes that all tasks may take together.
        by_items: their number is bounded by that of their items, of which each has requests of its own.
        wake: called from any thread when results are there before the end of their task.
    """

    def __init__(self, memory: int, by_items: bool, wake: Callable[[], None]) -> None:
        self._memory = memory
        self._wake = wake
        self._by_items = by_items
        self._items = 0
        self._flights: dict[int, Flight] = {}
        self._telling: set[Flight] = set()
        self._bytes = 0
        self._suspects = 0
        """Tasks in flight that failed before."""

    def __bool__(self) -> bool:
        return bool(self._flights)

    def is_busy(self, capacity: int) -> bool:
        """Whether an engine of that capacity has something to do for all its workers."""
        return self._number >= capacity

    @property
    def _number(self) -> int:
        return self._items if self._by_items else len(self._flights)

    def is_full(self, capacity: int, needs: int) -> bool:
        """Whether a task must wait that needs so many bytes, on an engine of that capacity."""
        if not self._flights:
            return False
        # Engines do last what failed before: others must not wait for it.
        waited_for = self._number - min(self._suspects, MOST_SUSPECTS)
        return waited_for >= DEPTH * capacity or self._bytes + needs > self._memory

    def add(self, task: Task, needs: int) -> Flight:
        """Note a task that is about to be handed out, and needs so many bytes."""
        flight = Flight(task, needs, self._telling, self._wake)
        self._flights[task.id] = flight
        self._bytes += needs
        self._items += len(task.work)
        self._suspects += _is_suspect(task)
        return flight

    def pop(self, number: int) -> Flight:
        flight = self._flights.pop(number)
        self._bytes -= flight.bytes
        self._items -= len(flight.task.work)
        self._suspects -= _is_suspect(flight.task)
        self._telling.discard(flight)
        return flight

    @property
    def has_arrived(self) -> bool:
        """Some results wait for the end of their tasks."""
        return bool(self._telling)

    def late(self) -> list[Flight]:
        """Tasks that take long, and of which results have arrived."""
        limit = time.monotonic() - LATE
        told = [flight for flight in list(self._telling) if flight.since < limit]
        return [flight for flight in told if flight.task.id in self._flights]

    def cancel(self) -> None:
        """Take back what no worker has begun."""
        for flight in list(self._flights.values()):
            flight.future.cancel()


def _is_suspect(task: Task) -> bool:
    return task.work[0].attempt > 1


class Retries:
    """Items whose attempt failed, each with the moment at which the next one is due."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, Ready]] = []
        self._turn = itertools.count()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, work: Work, needs: int, part: Part | None = None) -> float:
        """Have an item done again after a pause: its seconds."""
        import random  # costs milliseconds that a run without failures need not wait for

        pause = FIRST_PAUSE * 2.0 ** (work.attempt - 1) * (1 + random.random())
        again = Ready(replace(work, attempt=work.attempt + 1), 0, needs, part)
        heapq.heappush(self._waiting, (time.monotonic() + pause, next(self._turn), again))
        return pause

    def due(self) -> Iterator[Ready]:
        """Those whose pause is over."""
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            yield heapq.heappop(self._waiting)[2]

    @property
    def pause(self) -> float | None:
        """Seconds until one is due; None where there is none."""
        return max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None
