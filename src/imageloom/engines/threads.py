"""Pools of threads: the codecs and OpenCV let go of the interpreter's lock while they work.

Where tasks wait for stores there are two: as many threads as workers for what is done to pixels, and for the
requests as many as measuring finds. So a thread that waits holds up no pixels, and no core waits for a turn.
Uploads wait for each other as long as more are about to come: stores take many at a time with less work.
"""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future, wait
from functools import partial

from imageloom import stores
from imageloom.controller import fixed, for_requests
from imageloom.engines import Settings
from imageloom.model import Outcome, Task
from imageloom.pool import Bunches, SizedExecutor
from imageloom.work import Attempt, perform, settle, worker_name

Way = Generator[SizedExecutor | Bunches, None, Outcome]
"""Of a task: it goes on in a thread of the pool that it has named."""


class Threads:
    shares_memory = True

    def __init__(self, settings: Settings) -> None:
        jobs = settings.jobs
        self._controller = for_requests(settings.in_flight, jobs) if settings.waits else fixed(jobs)
        self._computing = SizedExecutor(fixed(jobs), "thread")
        self._requests = SizedExecutor(self._controller, "request") if settings.waits else self._computing
        self._commits = Bunches(self._requests, lambda: bool(self._made_now))
        self._waits = settings.waits
        self._made_now: set[int] = set()
        """The tasks whose outputs are not there yet."""
        self._under_way: set[Future[Outcome]] = set()

    @property
    def capacity(self) -> int:
        return self._controller.size

    def submit(self, task: Task) -> Future[Outcome]:
        if not self._waits:
            return self._computing.submit(perform, task)
        outcome: Future[Outcome] = Future()
        self._under_way.add(outcome)
        outcome.add_done_callback(self._under_way.discard)
        self._made_now.add(task.id)
        outcome.add_done_callback(lambda _: self._made_now.discard(task.id))
        way = self._way(task)
        next(way).post(partial(self._go_on, way, outcome))
        return outcome

    def close(self) -> None:
        for outcome in list(self._under_way):
            outcome.cancel()
        wait(list(self._under_way))  # what has begun goes from pool to pool
        self._computing.shutdown(cancel_futures=True)
        self._requests.shutdown()

    def _way(self, task: Task) -> Way:
        must_read = stores.is_remote(task.source) and not all(
            (task.source, work.item.key, work.item.fingerprint) in stores.kept for work in task.work
        )
        yield self._requests if must_read else self._computing
        settle(task)
        attempts = [Attempt(task, work) for work in task.work]
        for attempt in attempts:
            attempt.read()
        if must_read:
            yield self._computing
        for attempt in attempts:
            attempt.compute()
        self._made_now.discard(task.id)
        if stores.is_remote(task.sink):
            yield self._commits
        for attempt in attempts:
            attempt.commit()
        return Outcome(task.id, worker_name(), tuple(attempt.result for attempt in attempts))

    def _go_on(self, way: Way, outcome: Future[Outcome]) -> None:
        """The task's next step; the last one brings its outcome."""
        if not (outcome.running() or outcome.set_running_or_notify_cancel()):
            return
        try:
            next(way).post(partial(self._go_on, way, outcome))
        except StopIteration as end:
            outcome.set_result(end.value)
        except BaseException as error:
            outcome.set_exception(error)
