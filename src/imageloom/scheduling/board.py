"""The board of an engine with workers: which tasks wait, who has which in hand, and what has come of their items.

Each time that a task is handed out is a delivery with a number of its own, so that what a worker says too late
is known for what it is. A worker that is lost fails the items that it had in hand, one for each delivery; what
waited behind them goes to others. An item that failed before waits for those that did not, and has its worker
for itself: whatever it takes along, it takes no innocent one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from msgspec.structs import replace

from imageloom.errors import EngineFailed, WorkerLost
from imageloom.model import Failure, Outcome, Result, Task
from imageloom.scheduling.backlog import LONGEST_WAIT
from imageloom.scheduling.inbox import fail
from imageloom.scheduling.results import MOST_SECONDS, Told
from imageloom.worker.message import Message

MOST_RETURNS = 6
"""Times that a task is handed back without a result of it, after which that is a failed attempt."""
MOST_SUSPECTS = 2
"""Items that failed before which are tried at the same time while others are to be done: they may hang again."""

W = TypeVar("W", bound=Hashable)


@dataclass
class _Job:
    """A task, who waits for it, and its results so far, by the item's place in the task."""

    task: Task
    future: Future[Outcome]
    told: Told | None = None
    results: dict[int, Result] = field(default_factory=dict)
    returns: int = 0
    """Times that it was handed back since its last result."""

    @property
    def is_suspect(self) -> bool:
        """An attempt at it has failed before."""
        return any(work.attempt > 1 for work in self.task.work)


@dataclass
class _Run:
    """Items of a job, by their places in it: those that one delivery brings, or that wait for one."""

    job: _Job
    places: list[int]
    since: float
    """When it was queued, then when the current item was begun, by the monotonic clock."""
    done: int = 0
    """How many of the places have their results: the next one is in hand."""

    @property
    def is_over(self) -> bool:
        return self.done == len(self.places)


class Board(Generic[W]):
    """Tasks and their workers, whatever a worker is. Safe to use from several threads."""

    def __init__(self) -> None:
        self.mean = 1.0
        """Seconds of an item: a running mean that begins high, so that nothing seems to hang at first."""
        self._fresh: deque[_Run] = deque()
        self._suspects: deque[_Run] = deque()
        self._held: dict[W, dict[int, _Run]] = {}
        self._last = 0
        """The number of the latest delivery."""
        self._broken = ""
        self._lock = threading.RLock()

    def submit(self, task: Task, told: Told | None = None) -> Future[Outcome]:
        """Queue a task."""
        job = _Job(task, Future(), told)
        if self._broken:
            job.future.set_exception(EngineFailed(self._broken))
            return job.future
        self._queue(_Run(job, list(range(len(task.work))), time.monotonic()))
        return job.future

    def take(self, worker: W, room: int = 1) -> Task | None:
        """The next delivery for a worker that may have `room` of them in hand, if there is one for it."""
        with self._lock:
            while self.has_room(worker, room) and (run := self._next(not self._held.get(worker))):
                job = run.job
                if job.future.running() or job.future.set_running_or_notify_cancel():
                    self._last = number = self._last + 1
                    run.since = time.monotonic()
                    self._held.setdefault(worker, {})[number] = run
                    return replace(job.task, id=number, work=tuple(job.task.work[p] for p in run.places))
            return None

    def has_room(self, worker: W, room: int = 1) -> bool:
        with self._lock:
            held = self._held.get(worker, {})
            return len(held) < room and not any(run.job.is_suspect for run in held.values())

    def in_hand(self, worker: W) -> int:
        """How many deliveries a worker has in hand."""
        return len(self._held.get(worker, ()))

    def holds(self, worker: W, delivery: int) -> bool:
        return delivery in self._held.get(worker, ())

    def has_issued(self, delivery: int) -> bool:
        """Whether there ever was a delivery of that number."""
        return 0 < delivery <= self._last

    @property
    def is_idle(self) -> bool:
        """No worker has anything in hand."""
        return not any(self._held.values())

    @property
    def waiting(self) -> int:
        """Deliveries that nobody has taken."""
        return len(self._fresh) + len(self._suspects)

    def oldest(self, worker: W) -> float:
        """When the current item that takes the worker longest was begun, by the monotonic clock."""
        with self._lock:
            return min((run.since for run in self._held.get(worker, {}).values()), default=float("inf"))

    def accept(self, worker: W, message: Message) -> bool:
        """Take a result in; False where it is of a delivery that is over or was taken from the worker."""
        with self._lock:
            run = self._held.get(worker, {}).get(message.delivery)
            if run is None or message.result is None or message.place != run.done:
                return False
            result, spent = message.result, message.result.times.total
            if 0.0 <= spent <= MOST_SECONDS:
                self.mean += 0.1 * (spent - self.mean)
            if result.failure and not result.key:  # it could not be read
                result = replace(result, key=run.job.task.work[run.places[run.done]].item.key)
            self._settle(worker, message.delivery, run, result, message.worker)
            return True

    def finish(self, worker: W, delivery: int, name: str = "") -> None:
        """A worker is through with a delivery: what it has not done of it is queued again."""
        with self._lock:
            run = self._held.get(worker, {}).get(delivery)
            if run is None:
                return
            if run.places:
                self.hand_back(worker, delivery)
            else:  # a task without items
                self._end(worker, delivery, run, name)

    def part(self, worker: W) -> list[int]:
        """Queue again what waits behind the items that a worker has in hand; the deliveries that are cut."""
        with self._lock:
            cut = []
            for number, run in self._held.get(worker, {}).items():
                behind = run.places[run.done + 1 :]
                if behind:
                    del run.places[run.done + 1 :]
                    self._queue(_Run(run.job, behind, time.monotonic()), first=True)
                    cut.append(number)
            return cut

    def lose(self, worker: W, failure: Failure, name: str = "") -> None:
        """Fail what a worker has in hand, queue again what waits behind it, and forget the worker."""
        with self._lock:
            self.part(worker)
            for number, run in list(self._held.get(worker, {}).items()):
                if not run.places:
                    self.hand_back(worker, number)
                    continue
                key = run.job.task.work[run.places[run.done]].item.key
                spent = time.monotonic() - run.since
                lost = Result(key, failure=failure, started=time.time() - spent, lost=spent)
                self._settle(worker, number, run, lost, name)
            self._held.pop(worker, None)

    def hand_back(self, worker: W, delivery: int | None = None) -> None:
        """Queue again what a worker has in hand, as if it had not begun it: all of it, or one delivery."""
        with self._lock:
            held = self._held.get(worker, {})
            for number in list(held) if delivery is None else [delivery]:
                if (run := held.get(number)) is None:
                    continue
                run.job.returns += 1
                if run.places and run.job.returns > MOST_RETURNS:
                    self._fail_current(worker, number, run)
                if run := held.pop(number, None):
                    self._queue(_Run(run.job, run.places[run.done :], time.monotonic()), first=True)
            if not held:
                self._held.pop(worker, None)

    def _fail_current(self, worker: W, number: int, run: _Run) -> None:
        key = run.job.task.work[run.places[run.done]].item.key
        reason = f"its workers handed it back {run.job.returns} times without a result"
        self._settle(worker, number, run, Result(key, failure=Failure.of(WorkerLost(reason))), "")

    def deliveries(self, worker: W) -> set[int]:
        """What a worker has in hand."""
        with self._lock:
            return set(self._held.get(worker, ()))

    def fail(self, reason: str) -> None:
        """The engine cannot go on: fail what is not done, and all that is submitted from now on."""
        with self._lock:
            self._broken = reason
            for run in self._all():
                fail(run.job.future, EngineFailed(reason))

    def _all(self) -> list[_Run]:
        held = [run for runs in self._held.values() for run in runs.values()]
        return [*self._fresh, *self._suspects, *held]

    def abandon(self, reason: str) -> None:
        """Fail what is not done, for nobody will do it."""
        with self._lock:
            for run in self._all():
                if not run.job.future.cancel() and not run.job.future.done():
                    run.job.future.set_exception(WorkerLost(reason))
            for place in (self._fresh, self._suspects, self._held):
                place.clear()

    def cancel(self) -> None:
        """Cancel what no worker has begun."""
        with self._lock:
            for run in (*self._fresh, *self._suspects):
                run.job.future.cancel()

    def _settle(self, worker: W, number: int, run: _Run, result: Result, name: str) -> None:
        job = run.job
        place = run.places[run.done]
        found = job.results.setdefault(place, replace(result, worker=name))
        job.returns = 0
        if job.told:
            job.told(place, found)
        run.done += 1
        run.since = time.monotonic()
        if run.is_over:
            self._end(worker, number, run, name)

    def _end(self, worker: W, number: int, run: _Run, name: str) -> None:
        """A worker has a delivery off its hands; with the last one its task is done."""
        job, held = run.job, self._held[worker]
        del held[number]
        if not held:
            del self._held[worker]
        if len(job.results) == len(job.task.work) and not job.future.done():
            ordered = tuple(job.results[place] for place in range(len(job.task.work)))
            job.future.set_result(Outcome(job.task.id, name, ordered))

    def _queue(self, run: _Run, first: bool = False) -> None:
        with self._lock:
            queue = self._suspects if run.job.is_suspect else self._fresh
            (queue.appendleft if first else queue.append)(run)

    def _next(self, idle: bool) -> _Run | None:
        """The next run: suspects after all others, or a few that waited long, each for an idle worker."""
        if self._suspects and idle:
            held = [run.job.is_suspect for runs in self._held.values() for run in runs.values()]
            waited = time.monotonic() - self._suspects[0].since
            are_last = not self._fresh and all(held)
            if are_last or (waited > LONGEST_WAIT and sum(held) < MOST_SUSPECTS):
                return self._suspects.popleft()
        return self._fresh.popleft() if self._fresh else None
