"""Supervised worker processes: what kills one takes only its current item along.

A supervisor thread hands tasks to workers and takes their results one by one. A worker that dies, or that is
on one item for too long and is ended, fails that item alone; the rest of its task goes to another worker, and
a new worker takes its place. An item that failed before runs with no other one beside it, so that it cannot
take an innocent one along again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess

import msgspec

from imageloom.engines import Settings
from imageloom.engines.worker import Message, serve
from imageloom.model import Failure, Outcome, Result, Task, Work

PATIENCE = 1.0
"""Seconds on one item after which a worker seems to hang, and another one works in its place meanwhile."""
FIRST_BACKOFF = 0.05
"""Seconds before a worker that did nothing is replaced; twice as long for each further one in a row."""
LONGEST_BACKOFF = 5.0
GRACE = 5.0
"""Seconds that workers have to leave when the engine is closed."""


@dataclass
class _Job:
    """A task under way: its results so far, and who waits for them."""

    task: Task
    future: Future[Outcome]
    results: list[Result] = field(default_factory=list)
    worker: str = ""

    @property
    def rest(self) -> Task:
        return msgspec.structs.replace(self.task, work=self.task.work[len(self.results) :])

    @property
    def current(self) -> Work:
        return self.task.work[len(self.results)]

    @property
    def is_suspect(self) -> bool:
        """An attempt at it has failed before."""
        return any(work.attempt > 1 for work in self.task.work)


@dataclass
class _Worker:
    """A worker process and what it has in hand, by the task's number."""

    process: ForkServerProcess
    pipe: Connection
    jobs: dict[int, _Job] = field(default_factory=dict)
    since: dict[int, float] = field(default_factory=dict)
    """When each task's current item was begun, by the monotonic clock."""
    served: int = 0
    """Results that came from it."""

    @property
    def oldest(self) -> float:
        """When the item that takes longest was begun."""
        return min(self.since.values(), default=float("inf"))


class Processes:
    def __init__(self, settings: Settings) -> None:
        self.capacity = settings.jobs * settings.threads
        self._settings = settings
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["imageloom.cli.run", "imageloom.engines.worker"])
        self._lock = threading.Lock()
        self._queue: deque[_Job] = deque()
        self._workers: list[_Worker] = []
        self._barren = 0
        self._next_start = 0.0
        self._closing = False
        self._bell, self._button = os.pipe()
        os.set_blocking(self._button, False)
        for _ in range(settings.jobs):
            self._start()
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        with self._lock:
            self._queue.append(_Job(task, future))
        self._ring()
        return future

    def close(self) -> None:
        with self._lock:
            self._closing = True
            for job in self._queue:
                job.future.cancel()
            self._queue.clear()
        self._ring()
        self._thread.join()
        os.close(self._bell)
        os.close(self._button)

    def _ring(self) -> None:
        """Wake the supervisor."""
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes it as well
            os.write(self._button, b".")

    # The supervisor's thread

    def _supervise(self) -> None:
        while not self._closing or any(worker.jobs for worker in self._workers):
            self._replace()
            self._assign()
            by_pipe = {worker.pipe: worker for worker in self._workers}
            for ready in wait([self._bell, *by_pipe], self._until_next()):
                if isinstance(ready, Connection):
                    self._receive(by_pipe[ready])
                else:
                    os.read(self._bell, 4096)
            self._end_hung()
        self._dismiss(self._workers)

    def _until_next(self) -> float | None:
        """Seconds until something is due without a message."""
        now = time.monotonic()
        due = [
            worker.oldest + limit for worker in self._workers for limit in (PATIENCE, self._settings.timeout)
        ]
        if self._missing() > 0:
            due.append(self._next_start)
        waits = [moment - now for moment in due if moment > now]
        return min(waits) if waits and min(waits) != float("inf") else None

    def _missing(self) -> int:
        """How many more workers there should be: those that seem to hang are replaced, once each."""
        slow = time.monotonic() - PATIENCE
        lively = sum(worker.oldest > slow for worker in self._workers)
        return min(self._settings.jobs - lively, 2 * self._settings.jobs - len(self._workers))

    def _replace(self) -> None:
        while not self._closing and self._missing() > 0 and time.monotonic() >= self._next_start:
            self._start()

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=serve, args=(theirs, self._settings.threads, self._settings.memory), daemon=True
        )
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours))

    def _assign(self) -> None:
        """Give each worker what it has room for; the surplus of workers leaves when it is idle."""
        lively = sorted((w for w in self._workers if self._has_room(w)), key=lambda w: len(w.jobs))
        with self._lock:
            while self._queue and lively:
                worker = lively[0]
                job = self._queue[0]
                if job.is_suspect and worker.jobs:
                    break
                self._queue.popleft()
                if not job.future.running() and not job.future.set_running_or_notify_cancel():
                    continue
                self._send(worker, job)
                lively = sorted((w for w in lively if self._has_room(w)), key=lambda w: len(w.jobs))
        idle = [worker for worker in self._workers if not worker.jobs]
        surplus = min(-self._missing(), len(idle))
        if surplus > 0:
            self._dismiss(idle[:surplus])

    def _has_room(self, worker: _Worker) -> bool:
        return len(worker.jobs) < self._settings.threads and not any(
            job.is_suspect for job in worker.jobs.values()
        )

    def _send(self, worker: _Worker, job: _Job) -> None:
        worker.jobs[job.task.id] = job
        worker.since[job.task.id] = time.monotonic()
        with contextlib.suppress(OSError):  # it is dead: its pipe says so to the supervisor
            worker.pipe.send_bytes(msgspec.msgpack.encode(job.rest))

    def _receive(self, worker: _Worker) -> None:
        """Take a result in, or learn that the worker is dead."""
        try:
            message = msgspec.msgpack.decode(worker.pipe.recv_bytes(), type=Message)
        except (EOFError, OSError):
            self._bury(worker, "")
            return
        worker.served += 1
        self._barren = 0
        job = worker.jobs[message.task]
        job.worker = message.worker
        worker.since[message.task] = time.monotonic()
        self._accept(worker, job, message.result)

    def _accept(self, worker: _Worker, job: _Job, result: Result) -> None:
        job.results.append(result)
        if len(job.results) == len(job.task.work):
            worker.jobs.pop(job.task.id)
            worker.since.pop(job.task.id)
            job.future.set_result(Outcome(job.task.id, job.worker, tuple(job.results)))

    def _end_hung(self) -> None:
        limit = time.monotonic() - self._settings.timeout
        for worker in [w for w in self._workers if w.oldest <= limit]:
            worker.process.kill()
            self._bury(worker, f"it took more than {self._settings.timeout:g} s (--timeout)")

    def _bury(self, worker: _Worker, reason: str) -> None:
        """Fail the current items of a dead worker; the rest of its tasks is first in the queue again."""
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.join()
        failure = (
            Failure("ItemTimeout", reason, True)
            if reason
            else Failure("WorkerLost", f"its worker died: {_cause(worker.process.exitcode)}", True)
        )
        for number, job in list(worker.jobs.items()):
            began = time.time() - (time.monotonic() - worker.since[number])
            self._accept(worker, job, Result(job.current.item.key, failure=failure, started=began))
        with self._lock:
            self._queue.extendleft(reversed(worker.jobs.values()))
        if not worker.served:
            self._barren += 1
            pause = FIRST_BACKOFF * 2 ** (self._barren - 1)
            self._next_start = time.monotonic() + min(pause, LONGEST_BACKOFF)

    def _dismiss(self, workers: list[_Worker]) -> None:
        """Let idle workers go: the end of its pipe tells a worker to leave."""
        leaving = list(workers)
        for worker in leaving:
            self._workers.remove(worker)
            worker.pipe.close()
        until = time.monotonic() + GRACE
        for worker in leaving:
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"it left with exit code {exitcode}"
