"""Supervised worker processes: what kills one takes only its current item along.

A supervisor thread hands tasks to workers and takes their results one by one. A worker that dies, or that is
on one item for too long and is ended, fails that item alone; the rest of its task goes to another worker, and
a new worker takes its place. A worker that seems to hang is replaced before its time is over, so that the
others lose nothing. An item that failed before waits for those that did not, and has its worker for itself.
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
from imageloom.model import Failure, Outcome, Result, Task

PATIENCE = 20.0
"""Mean times of an item after which a worker seems to hang."""
LEAST_PATIENCE = 0.05
"""Seconds, at the least."""
MOST_SPARES = 16
"""Workers that take the place of those that seem to hang, at the most."""
FIRST_BACKOFF = 0.05
"""Seconds before a worker that died at its start is replaced; twice as long for each further one in a row."""
LONGEST_BACKOFF = 5.0
LONGEST_WAIT = 10.0
"""Seconds that an item which failed before lets others go first."""
GRACE = 5.0
"""Seconds that workers have to leave when the engine is closed."""


@dataclass
class _Job:
    """A task under way, who waits for it, and its results so far, by the item's place in the task."""

    task: Task
    future: Future[Outcome]
    results: dict[int, Result] = field(default_factory=dict)

    @property
    def is_suspect(self) -> bool:
        """An attempt at it has failed before."""
        return any(work.attempt > 1 for work in self.task.work)


@dataclass
class _Run:
    """What one worker does of a job: the places of its items, the current one first."""

    job: _Job
    places: list[int]
    since: float
    """When it was queued, then when the current item was begun, by the monotonic clock."""


@dataclass
class _Worker:
    """A worker process, and its runs by the task's number."""

    process: ForkServerProcess
    pipe: Connection
    runs: dict[int, _Run] = field(default_factory=dict)
    is_ready: bool = False
    """It has said so: its imports are done."""

    @property
    def oldest(self) -> float:
        """When the current item that takes longest was begun."""
        return min((run.since for run in self.runs.values()), default=float("inf"))


class Processes:
    shares_memory = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._at_once = max(settings.threads, -(-settings.in_flight // settings.jobs))
        """Tasks that a worker has in hand together."""
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["imageloom.cli.run", "imageloom.engines.worker"])
        self._lock = threading.Lock()
        self._fresh: deque[_Run] = deque()
        self._suspects: deque[_Run] = deque()
        self._workers: list[_Worker] = []
        self._mean = 1.0
        """Seconds of an item: a running mean that begins high, so that nothing seems to hang at first."""
        self._stillborn = 0
        """Workers in a row that died before they were ready."""
        self._next_start = 0.0
        self._closing = False
        self._bell, self._button = os.pipe()
        os.set_blocking(self._button, False)
        for _ in range(settings.jobs):
            self._start()
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._thread.start()

    @property
    def capacity(self) -> int:
        """Workers that seem to hang count beside those that take their place."""
        return max(self._settings.jobs, len(self._workers)) * self._at_once

    def submit(self, task: Task) -> Future[Outcome]:
        job = _Job(task, Future())
        run = _Run(job, list(range(len(task.work))), time.monotonic())
        with self._lock:
            (self._suspects if job.is_suspect else self._fresh).append(run)
        self._ring()
        return job.future

    def close(self) -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = True
            for run in (*self._fresh, *self._suspects):
                run.job.future.cancel()
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
        while not self._closing or any(worker.runs for worker in self._workers):
            self._part_from_slow()
            self._balance()
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
        """Seconds until something is due that no message tells."""
        now = time.monotonic()
        limits = (self._patience, self._settings.timeout)
        due = [worker.oldest + limit for worker in self._workers for limit in limits]
        if self._missing() > 0:
            due.append(self._next_start)
        later = [moment - now for moment in due if now < moment < float("inf")]
        return min(later, default=None)

    @property
    def _patience(self) -> float:
        return max(LEAST_PATIENCE, PATIENCE * self._mean * self._at_once / self._settings.threads)

    def _is_slow(self, worker: _Worker) -> bool:
        return worker.oldest <= time.monotonic() - self._patience

    def _part_from_slow(self) -> None:
        """Queue again what waits behind an item that takes long; a result that comes twice is taken once."""
        for worker in self._workers:
            if self._is_slow(worker):
                for run in worker.runs.values():
                    if len(run.places) > 1:
                        self._queue_again(run.job, run.places[1:])
                        del run.places[1:]

    def _queue_again(self, job: _Job, places: list[int]) -> None:
        with self._lock:
            queue = self._suspects if job.is_suspect else self._fresh
            queue.appendleft(_Run(job, places, time.monotonic()))

    def _missing(self) -> int:
        """How many more workers there should be; below zero for a surplus."""
        lively = sum(not self._is_slow(worker) for worker in self._workers)
        wanted = self._settings.jobs - lively
        return min(wanted, self._settings.jobs + MOST_SPARES - len(self._workers))

    def _balance(self) -> None:
        """Start workers that are missing, let those go that are too many and idle."""
        while not self._closing and self._missing() > 0 and time.monotonic() >= self._next_start:
            self._start()
        idle = [worker for worker in self._workers if not worker.runs]
        surplus = min(-self._missing(), len(idle))
        if surplus > 0:
            self._dismiss(idle[:surplus])

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=serve,
            args=(theirs, self._settings.threads, self._settings.memory, self._at_once),
            daemon=True,
        )
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours))

    def _assign(self) -> None:
        """Give the workers with the least in hand what they have room for."""
        while True:
            free = [w for w in self._workers if self._has_room(w)]
            run = self._next(any(not w.runs for w in free)) if free else None
            if run is None:
                return
            job = run.job
            if not job.future.running() and not job.future.set_running_or_notify_cancel():
                continue
            worker = min(free, key=lambda w: len(w.runs))
            worker.runs[job.task.id] = run
            run.since = time.monotonic()
            part = msgspec.structs.replace(job.task, work=tuple(job.task.work[p] for p in run.places))
            with contextlib.suppress(OSError):  # it is dead: its pipe says so to the supervisor
                worker.pipe.send_bytes(msgspec.msgpack.encode(part))

    def _has_room(self, worker: _Worker) -> bool:
        alone = any(run.job.is_suspect for run in worker.runs.values())
        return len(worker.runs) < self._at_once and not alone

    def _next(self, some_idle: bool) -> _Run | None:
        """The next run: suspects after the others, unless they waited long, and only for an idle worker."""
        with self._lock:
            if self._suspects and some_idle:
                waited = time.monotonic() - self._suspects[0].since
                if not self._fresh or waited > LONGEST_WAIT:
                    return self._suspects.popleft()
            return self._fresh.popleft() if self._fresh else None

    def _receive(self, worker: _Worker) -> None:
        """Take a result in, or learn that the worker is dead."""
        try:
            message = msgspec.msgpack.decode(worker.pipe.recv_bytes(), type=Message)
        except (EOFError, OSError):
            self._bury(worker, None)
            return
        if message.result is None:
            worker.is_ready = True
            self._stillborn = 0
            return
        run = worker.runs.get(message.task)
        if run is None:
            return  # it did on its own what was queued again meanwhile
        self._mean += 0.1 * (message.result.times.total - self._mean)
        run.since = time.monotonic()
        self._accept(worker, run, message.result, message.worker)

    def _accept(self, worker: _Worker, run: _Run, result: Result, name: str) -> None:
        job = run.job
        job.results.setdefault(run.places.pop(0), result)
        if not run.places:
            del worker.runs[job.task.id]
        if len(job.results) == len(job.task.work):
            ordered = tuple(job.results[place] for place in range(len(job.task.work)))
            job.future.set_result(Outcome(job.task.id, name, ordered))

    def _end_hung(self) -> None:
        limit = time.monotonic() - self._settings.timeout
        for worker in [w for w in self._workers if w.oldest <= limit]:
            worker.process.kill()
            reason = f"it took more than {self._settings.timeout:g} s (--timeout)"
            self._bury(worker, Failure("ItemTimeout", reason, True))

    def _bury(self, worker: _Worker, failure: Failure | None) -> None:
        """Fail the current items of a dead worker; the rest of its runs is first in the queue again."""
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.join()
        cause = _cause(worker.process.exitcode)
        failure = failure or Failure("WorkerLost", f"its worker died: {cause}", True)
        for run in list(worker.runs.values()):
            began = time.time() - (time.monotonic() - run.since)
            key = run.job.task.work[run.places[0]].item.key
            self._accept(worker, run, Result(key, failure=failure, started=began), f"{worker.process.pid}")
            if run.places:
                self._queue_again(run.job, run.places)
        if not worker.is_ready:
            self._stillborn += 1
            pause = FIRST_BACKOFF * 2 ** (self._stillborn - 1)
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
