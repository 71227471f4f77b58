"""The window of tasks in flight, and the items that wait for a retry."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future

from msgspec import Struct, field
from msgspec.structs import replace

from imageloom.driver.batches import Ready
from imageloom.driver.clock import REAL, Clock
from imageloom.errors import EngineFailed, WorkerLost
from imageloom.model import Failure, Outcome, Part, Result, Task, Work
from imageloom.records.faults import failure_of

DEPTH = 3
"""Tasks in flight per worker: one that runs, and two queued so that no worker waits for the driver."""
MOST_SUSPECTS = 100
"""Maximum number of tasks in flight, in addition to the window, whose items failed before."""
LATE = 0.25
"""After this number of seconds, the results of a running task are collected one by one."""
FIRST_PAUSE = 0.1
"""Back-off before the second attempt, in seconds. It doubles with each attempt, and jitter is added."""


class Flight(Struct, eq=False):
    """A task in flight."""

    task: Task
    bytes: int
    reporting: dict[Flight, None]
    """The window's tasks of which some results have arrived before the end of the task."""
    wake: Callable[[], None]
    """Called from any thread when the first such result arrives."""
    since: float
    """When it was submitted."""
    future: Future[Outcome] = field(default_factory=Future)
    """The engine's, when it has returned it; results may arrive earlier."""
    arrived: dict[int, Result] = field(default_factory=dict)
    """Results that arrived before the end of the task, by the item's position. Filled by the engine's threads."""
    taken: set[int] = field(default_factory=set)
    """Positions of the results that were already collected."""

    def add_result(self, place: int, result: Result) -> None:
        """Add the result of the item at a position. Called by the engine, from any thread."""
        self.arrived[place] = result
        if self not in self.reporting:
            self.reporting[self] = None  # in the order of their first results
            if len(self.reporting) == 1:
                self.wake()

    def outcome(self) -> Outcome:
        """The outcome of the finished task. An exception becomes a failure of each item.

        Raises:
            EngineFailed: the engine cannot continue.
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
        """The results that have arrived since the last call."""
        self.reporting.pop(self, None)  # a result that arrives from now on adds it again
        new = [place for place in list(self.arrived) if place not in self.taken]
        self.taken.update(new)
        return [(self.task.work[place], self.arrived[place]) for place in new]

    def take_rest(self, results: tuple[Result, ...]) -> list[tuple[Work, Result]]:
        """Those of the task's results that were not collected yet."""
        every = enumerate(zip(self.task.work, results, strict=True))
        return [pair for place, pair in every if place not in self.taken]


class Window:
    """The tasks in flight by number, and the limits on them.

    It is used for each task while a hundred others are in flight. So no method loops over all tasks.

    Args:
        memory: maximum memory of all tasks together, in bytes.
        by_items: limit the number of items instead of tasks, because each item makes its own requests.
        wake: called from any thread when results arrive before the end of their task.
    """

    def __init__(self, memory: int, by_items: bool, wake: Callable[[], None], clock: Clock = REAL) -> None:
        self._clock = clock
        self._memory = memory
        self._wake = wake
        self._by_items = by_items
        self._items = 0
        self._flights: dict[int, Flight] = {}
        self._reporting: dict[Flight, None] = {}
        self._bytes = 0
        self._suspects = 0
        """Number of tasks in flight whose items failed before."""

    def __bool__(self) -> bool:
        return bool(self._flights)

    def is_busy(self, capacity: int) -> bool:
        """Whether all workers of an engine with this capacity have a task."""
        return self._number >= capacity

    @property
    def _number(self) -> int:
        return self._items if self._by_items else len(self._flights)

    def is_full(self, capacity: int, needs: int) -> bool:
        """Whether a task that needs this memory must wait, on an engine with this capacity."""
        if not self._flights:
            return False
        # Engines run retries last: other tasks must not wait for them.
        waited_for = self._number - min(self._suspects, MOST_SUSPECTS)
        return waited_for >= DEPTH * capacity or self._bytes + needs > self._memory

    def add(self, task: Task, needs: int) -> Flight:
        """Add a task, which needs this memory in bytes, before it is submitted."""
        flight = Flight(task, needs, self._reporting, self._wake, self._clock.monotonic())
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
        self._reporting.pop(flight, None)
        return flight

    @property
    def has_arrived(self) -> bool:
        """Whether results have arrived before the end of their tasks."""
        return bool(self._reporting)

    def late(self) -> list[Flight]:
        """The tasks that have been running for LATE seconds and of which results have arrived."""
        limit = self._clock.monotonic() - LATE
        old = [flight for flight in list(self._reporting) if flight.since < limit]
        return [flight for flight in old if flight.task.id in self._flights]

    @property
    def tasks(self) -> list[Task]:
        """The tasks in flight. Safe to call from another thread."""
        return [flight.task for flight in list(self._flights.values())]

    def cancel(self) -> None:
        """Cancel the tasks that no worker has started."""
        for flight in list(self._flights.values()):
            flight.future.cancel()


def _is_suspect(task: Task) -> bool:
    return task.work[0].attempt > 1


class Retries:
    """Items that wait for a retry, each with the time at which the retry is due."""

    def __init__(self, clock: Clock = REAL) -> None:
        self._clock = clock
        self._waiting: list[tuple[float, int, Ready]] = []
        self._turn = itertools.count()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, work: Work, needs: int, part: Part | None = None) -> float:
        """Schedule a retry of an item. Returns the back-off in seconds."""
        pause = FIRST_PAUSE * 2.0 ** (work.attempt - 1) * (1 + self._clock.random())
        again = Ready(replace(work, attempt=work.attempt + 1), 0, needs, part)
        heapq.heappush(self._waiting, (self._clock.monotonic() + pause, next(self._turn), again))
        return pause

    def due(self) -> Iterator[Ready]:
        """The items whose retry is due."""
        while self._waiting and self._waiting[0][0] <= self._clock.monotonic():
            yield heapq.heappop(self._waiting)[2]

    @property
    def pause(self) -> float | None:
        """Seconds until the next retry is due; None if none is waiting."""
        return max(0.0, self._waiting[0][0] - self._clock.monotonic()) if self._waiting else None
