"""The engine threads: pools of threads. The codecs and OpenCV release the interpreter's lock while they work.

If tasks wait for stores, there are two pools: one with a thread for each worker, which processes pixels, and one
for requests, whose size is found by measuring. So a waiting request does not block the processing of pixels.
Uploads are grouped as long as more are expected, because stores handle a group with less work.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial

from msgspec.structs import replace

from imageloom import stores
from imageloom.engines import Capabilities, Engine, Settings
from imageloom.errors import ItemTimeout, NotBegun
from imageloom.model import Outcome, Result, Task
from imageloom.scheduling.results import ResultCallback
from imageloom.worker.controller import fixed, for_requests
from imageloom.worker.perform import STOPPED, Attempt, TaskName, perform, worker_name
from imageloom.worker.pool import Bunches, SizedExecutor
from imageloom.worker.sandbox import children, is_used_for_all
from imageloom.worker.setup import prepare
from imageloom.worker.watchdog import Watchdog


class Threads(Engine):
    capabilities = Capabilities(shares_memory=True, overlaps=True, reports_results=True)
    """With a sandbox, items are ended after their time-out: those in other processes with their process. The
    thread of any other item is abandoned, and the next attempt at it is made in another process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        children.open(self)
        if settings.sandbox.is_on:
            self.capabilities = replace(self.capabilities, ends_items=True)
        jobs = settings.jobs
        self._controller = for_requests(settings.in_flight, jobs) if settings.waits else fixed(jobs)
        self.computing = SizedExecutor(fixed(jobs), "thread")
        self.requests = SizedExecutor(self._controller, "request") if settings.waits else self.computing
        self.commits = Bunches(self.requests, lambda: bool(self.uncomputed))
        self.uncomputed: set[int] = set()
        """Numbers of the tasks whose outputs are not computed yet."""
        self._waits = settings.waits
        self._cut_short: set[TaskName] = set()
        self._under_way: set[Future[Outcome]] = set()
        is_watched = settings.sandbox.is_on and settings.timeout
        self.watchdog = Watchdog(settings.timeout) if is_watched else None

    @property
    def capacity(self) -> int:
        return self._controller.size

    def submit(self, task: Task, on_result: ResultCallback | None = None) -> Future[Outcome]:
        if not self._waits and (self.watchdog is None or is_used_for_all(task)):
            return self.computing.submit(perform, task, on_result, self._cut_short)
        run = _TaskRun(self, task, on_result)
        self._under_way.add(run.outcome)
        run.outcome.add_done_callback(self._under_way.discard)
        run.begin()
        return run.outcome

    def cut_short(self, task: Task) -> None:
        self._cut_short.add((task.job, task.id))

    def is_cut_short(self, task: Task) -> bool:
        return (task.job, task.id) in self._cut_short

    def close(self) -> None:
        for outcome in list(self._under_way):
            outcome.cancel()
        wait(list(self._under_way))  # a task that has begun moves from pool to pool
        self.computing.shutdown(cancel_futures=True)
        self.requests.shutdown()
        if self.watchdog is not None:
            self.watchdog.close()
        children.close(self)

    def kill(self) -> None:
        self.computing.shutdown(wait=False, cancel_futures=True)
        self.requests.shutdown(wait=False)
        if self.watchdog is not None:
            self.watchdog.close()
        children.close(self)


class _TaskRun:
    """A task that moves from pool to pool: each step schedules the next one."""

    def __init__(self, engine: Threads, task: Task, on_result: ResultCallback | None) -> None:
        self._engine = engine
        self._task = task
        self._on_result = on_result
        self._uploads = stores.is_remote(task.sink)
        self._attempts: list[Attempt] = []
        self._results: list[Result | None] = [None] * len(task.work)
        self._committed = itertools.count(1)  # next() is atomic
        self.outcome: Future[Outcome] = Future()

    def begin(self) -> None:
        uncomputed, number = self._engine.uncomputed, self._task.id
        uncomputed.add(number)
        self.outcome.add_done_callback(lambda _: uncomputed.discard(number))  # it keeps no run alive
        source = self._task.source
        if stores.is_remote(source) and not all(
            (source, work.item) in stores.kept for work in self._task.work
        ):
            self._engine.requests.post(self._read)
        else:
            self._engine.computing.post(self._read_and_compute)

    def _read(self) -> None:
        if self.outcome.set_running_or_notify_cancel():
            with self._errors_end_task():
                prepare(self._task)
                for work in self._task.work:
                    self._attempts.append(Attempt(self._task, work))
                    self._attempts[-1].read()
                self._engine.computing.post(self._compute)

    def _read_and_compute(self) -> None:
        if self.outcome.set_running_or_notify_cancel():
            with self._errors_end_task():
                prepare(self._task)
                self._compute()

    def _compute(self, first: int = 0) -> None:
        """Compute the items from this one on, and read them if that was not done."""
        with self._errors_end_task():
            for place in range(first, len(self._task.work)):
                if place and self._engine.is_cut_short(self._task):
                    self._leave(place)
                    return
                if place == len(self._attempts):
                    self._attempts.append(Attempt(self._task, self._task.work[place]))
                    self._attempts[place].read()
                attempt = self._attempts[place]
                if not self._is_computed(place, attempt):
                    attempt.discard()
                    return  # another thread goes on
                self._commit(place, attempt)

    def _leave(self, first: int) -> None:
        """Fail the items from this one on: the run was stopped."""
        for place in range(first, len(self._task.work)):
            left = Attempt(self._task, self._task.work[place])
            left.fail(NotBegun(STOPPED))
            self._attempts[place : place + 1] = [left]
            self._commit(place, left)

    def _is_computed(self, place: int, attempt: Attempt) -> bool:
        """Compute an item. Returns False if it took too long, so that this thread was abandoned."""
        watchdog = self._engine.watchdog
        if watchdog is None or attempt.is_apart:
            attempt.compute()
            return True
        number = watchdog.begin(partial(self._abandon, place, threading.current_thread()))
        attempt.compute()
        return watchdog.end(number)

    def _abandon(self, place: int, thread: threading.Thread) -> None:
        """Fail an item that takes too long, and go on with the next one in another thread."""
        with self._errors_end_task():
            late = self._attempts[place] = Attempt(self._task, self._task.work[place])
            late.fail(ItemTimeout(f"it took more than {self._engine.settings.timeout:g} s (--timeout)"))
            self._engine.computing.abandon(thread)
            self._commit(place, late)
            if place + 1 < len(self._task.work):
                self._engine.computing.post(partial(self._compute, place + 1))

    def _commit(self, place: int, attempt: Attempt) -> None:
        if place + 1 == len(self._task.work):
            self._engine.uncomputed.discard(self._task.id)
        if self._uploads:
            self._engine.commits.post(partial(self._commit_one, place, attempt))
        else:
            self._commit_one(place, attempt)

    def _commit_one(self, place: int, attempt: Attempt) -> None:
        with self._errors_end_task():
            attempt.commit()
            worker = worker_name()
            result = self._results[place] = replace(attempt.result, worker=worker)
            if self._on_result is not None:
                self._on_result(place, result)
            if next(self._committed) == len(self._task.work):
                results = tuple(result for result in self._results if result is not None)
                self.outcome.set_result(Outcome(self._task.id, worker, results))

    @contextmanager
    def _errors_end_task(self) -> Iterator[None]:
        """An exception in a step, which is a bug, ends the task."""
        try:
            yield
        except BaseException as error:
            if not self.outcome.done():
                self.outcome.set_exception(error)
