"""Three supervised processes in a row: a loader, a filter and a reconstruction, with rings of pixels between.

    tasks -> ring -> load -> ring -> filter -> ring -> finish -> results

Images are at different stages at the same time; the rings' bounds hold back a stage that is ahead of the next
one. In each stage a pool of threads sizes itself by the throughput that it measures.

A stage that is killed is started again. What it had in hand comes back as lost, and the driver decides on
another attempt; what waits in the rings is taken by its successor. An item that failed before goes through the
stages alone, so that it takes no innocent one along. `ring` says why no death at any moment holds up the others.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess

from msgspec.structs import replace

from imageloom.engines import Capabilities, Engine, Settings
from imageloom.engines.pipeline.ring import READING, WRITING, Ring
from imageloom.engines.pipeline.stage import Slip, encode, serve
from imageloom.errors import EngineFailed, InvalidResult, UsageError
from imageloom.model import Failure, Outcome, Result, Task
from imageloom.scheduling.backlog import LONGEST_WAIT
from imageloom.scheduling.engine import GRACE
from imageloom.scheduling.fleet import cause_of
from imageloom.scheduling.inbox import Inbox, fail, log, message_of, start_thread
from imageloom.scheduling.scheduler import FIRST_BACKOFF, LONGEST_BACKOFF
from imageloom.worker.fork_server import warm_up
from imageloom.worker.process import start

STAGES = (
    "imageloom.engines.pipeline.stage:load",
    "imageloom.engines.pipeline.stage:run_filters",
    "imageloom.engines.pipeline.stage:finish",
)
SLOTS = 64
"""Chunks in a ring, at the most."""
BUDGET = 64 << 20
"""Bytes of pixels in a ring, at the most, but for a chunk that has it for itself."""
MOST_STILLBORN = 6
"""Processes in a row that may die before they are ready; then nothing goes on, and all that waits is lost."""
LONGEST_LOOK = 1.0
"""Seconds between two looks for chunks that hang."""


@dataclass(eq=False)
class _Job:
    """A task, who waits for it, and its results so far, by the item's place in the task."""

    task: Task
    future: Future[Outcome]
    bare: bytes
    """The task without its items, encoded."""
    results: dict[int, Result] = field(default_factory=dict)
    _is_wanted: bool | None = None

    @property
    def is_wanted(self) -> bool:
        """Asked when one of its items is about to begin: it has not been cancelled, and cannot be any more."""
        if self._is_wanted is None:
            self._is_wanted = self.future.set_running_or_notify_cancel()
        return self._is_wanted

    @property
    def is_suspect(self) -> bool:
        """An attempt at it has failed before."""
        return any(work.attempt > 1 for work in self.task.work)


@dataclass(eq=False)
class _Chunk:
    """One item of a job, on its way or before it."""

    job: _Job
    place: int
    since: float
    """When it was queued, by the monotonic clock."""


@dataclass(eq=False)
class _Stage:
    """A stage, and its process while there is one."""

    function: str
    threads: tuple[int, int, int]
    source: Ring
    target: Ring | None
    process: ForkServerProcess | None = None
    pipe: Connection | None = None
    inbox: Inbox | None = None
    is_ready: bool = False
    """The process has said so: its imports are done."""
    stillborn: int = 0
    """Processes in a row that died before they were ready."""
    next_start: float = 0.0


class Pipeline(Engine):
    """The engine.

    Args:
        stages: the names of what the stages do, each a `stage.Stage` as `module:function`.
        sizes: the least, the most and the first number of threads of each stage; None for what suits the jobs.

    Raises:
        UsageError: this system has no shared memory without a name, or no semaphores: it is not Linux.
        StorageError: there is no shared memory to be had.
    """

    capabilities = Capabilities(ends_items=True, survives_death=True)

    def __init__(
        self,
        settings: Settings,
        stages: tuple[str, str, str] = STAGES,
        sizes: Sequence[tuple[int, int, int]] | None = None,
    ) -> None:
        if not hasattr(os, "memfd_create") or not hasattr(os, "eventfd"):
            raise UsageError("engine pipeline needs Linux; take --engine processes")
        self._settings = settings
        self._context = warm_up("imageloom.engines.pipeline.stage")
        self._rings = [Ring(SLOTS, BUDGET) for _ in stages]
        jobs = settings.jobs
        sizes = sizes or ((1, 16 * jobs, 2 * jobs), (1, jobs, jobs), (1, 4 * jobs, jobs))
        self._stages = [
            _Stage(*each) for each in zip(stages, sizes, self._rings, [*self._rings[1:], None], strict=True)
        ]
        self._lock = threading.Lock()
        self._fresh: deque[_Chunk] = deque()
        self._suspects: deque[_Chunk] = deque()
        self._under_way: dict[int, _Chunk] = {}
        self._numbers = itertools.count(1)
        self._next_look = 0.0
        self._closing = False
        self._broken = ""
        self._missed: set[int] = set()
        """Chunks that were in no ring at the last look, and have no result."""
        self._bell, self._button = os.pipe()
        os.set_blocking(self._button, False)
        for stage in self._stages:
            self._start(stage)
        self._thread = start_thread("supervisor", self._supervise, self._fail)

    @property
    def capacity(self) -> int:
        """As many as are being loaded: where that is waiting, there are more of them than workers."""
        return max(self._settings.jobs, 0 if self._closing else self._rings[0].readers)

    def submit(self, task: Task) -> Future[Outcome]:
        job = _Job(task, Future(), encode(replace(task, work=())))
        if self._broken:
            job.future.set_exception(EngineFailed(self._broken))
            return job.future
        now = time.monotonic()
        with self._lock:
            queue = self._suspects if job.is_suspect else self._fresh
            queue.extend(_Chunk(job, place, now) for place in range(len(task.work)))
        self._ring()
        return job.future

    def close(self) -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = True
            for chunk in (*self._fresh, *self._suspects):
                chunk.job.future.cancel()
        self._ring()
        self._thread.join()
        os.close(self._bell)
        os.close(self._button)
        for ring in self._rings:
            ring.close()

    def _ring(self) -> None:
        """Wake the supervisor."""
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes it as well
            os.write(self._button, b".")

    # The supervisor's thread

    def _supervise(self) -> None:
        try:
            self._serve()
        finally:
            self._dismiss()

    def _fail(self, reason: str) -> None:
        """The supervisor has failed: nobody will do what waits."""
        with self._lock:
            self._broken = reason
            for chunk in (*self._fresh, *self._suspects, *self._under_way.values()):
                fail(chunk.job.future, EngineFailed(reason))

    def _serve(self) -> None:
        while True:
            self._start_missing()
            self._feed()
            if self._closing and not self._under_way:
                break
            by_pipe = {stage.pipe: stage for stage in self._stages if stage.pipe}
            for ready in wait([self._bell, self._rings[0].room, *by_pipe], self._until_next()):
                if isinstance(ready, Connection):
                    stage = by_pipe[ready]
                    # The burial of another stage may have taken in what was ready here.
                    if stage.pipe is ready and ready.poll() and not self._receive(stage):
                        self._bury(stage)
                elif isinstance(ready, int):
                    os.read(ready, 4096)
            self._end_hung()

    def _until_next(self) -> float | None:
        """Seconds until something is due that nobody tells."""
        due = [stage.next_start for stage in self._stages if stage.process is None]
        if self._under_way:
            due.append(self._next_look)
        return max(0.0, min(due) - time.monotonic()) if due else None

    # Tasks -> first ring

    def _feed(self) -> None:
        """Fill the first ring."""
        while chunk := self._next():
            job = chunk.job
            number = next(self._numbers)
            if not self._rings[0].try_put(number, encode(Slip(job.bare, job.task.work[chunk.place]))):
                with self._lock:
                    (self._suspects if job.is_suspect else self._fresh).appendleft(chunk)
                return
            self._under_way[number] = chunk

    def _next(self) -> _Chunk | None:
        """The next chunk: suspects after the others, unless they have waited long, and one at a time."""
        if any(chunk.job.is_suspect for chunk in self._under_way.values()):
            return None
        with self._lock:
            while queue := self._queue():
                chunk = queue[0]
                if chunk.job.is_suspect and self._under_way:
                    return None
                queue.popleft()
                if chunk.job.is_wanted:
                    return chunk
        return None

    def _queue(self) -> deque[_Chunk]:
        if self._suspects and time.monotonic() - self._suspects[0].since > LONGEST_WAIT:
            return self._suspects
        return self._fresh or self._suspects

    # Results

    def _receive(self, stage: _Stage) -> bool:
        """Take results in; False where the stage is dead and has said all, or says what no stage of ours would."""
        assert stage.inbox is not None
        try:
            for data in stage.inbox.take():
                message = message_of(data)
                if message.result is None:
                    stage.is_ready, stage.stillborn = True, 0
                else:
                    self._accept(message.delivery, message.result, message.worker)
        except (EOFError, OSError):
            return False
        except InvalidResult as error:
            assert stage.process is not None
            log.warning("refused a message of stage %s, which is ended: %s", stage.process.pid, error)
            stage.process.kill()
            return False
        return True

    def _accept(self, number: int, result: Result, worker: str) -> None:
        chunk = self._under_way.pop(number, None)
        if chunk is None:
            return
        job = chunk.job
        if result.failure and not result.key:  # it could not be read
            result = replace(result, key=job.task.work[chunk.place].item.key)
        job.results[chunk.place] = result
        if len(job.results) == len(job.task.work):
            ordered = tuple(job.results[place] for place in range(len(job.task.work)))
            job.future.set_result(Outcome(job.task.id, worker, ordered))

    # Stages

    def _start_missing(self) -> None:
        for stage in self._stages:
            if stage.process is None and time.monotonic() >= stage.next_start:
                self._start(stage)

    def _start(self, stage: _Stage) -> None:
        stage.pipe, theirs = self._context.Pipe()
        stage.inbox = Inbox(stage.pipe)
        stage.is_ready = False
        ends = (stage.source, stage.target)
        memory = self._settings.memory
        stage.process = start(self._context, serve, theirs, stage.function, *ends, stage.threads, memory)
        theirs.close()

    def _end_hung(self) -> None:
        """End the stages that have had a chunk in hand for too long."""
        now, limit = time.monotonic(), self._settings.timeout
        if now < self._next_look:
            return
        self._next_look = now + min(LONGEST_LOOK, limit / 4)
        for stage in self._stages:
            hung = {number for number, since in stage.source.held().items() if since <= now - limit}
            if hung and stage.process:
                stage.process.kill()
                self._bury(stage, hung)
        self._fail_missing()

    def _fail_missing(self) -> None:
        """Fail the chunks that a stage has let go of without a word: in no ring at two looks, and no result."""
        held = set().union(*(stage.source.has() for stage in self._stages))
        missing = self._under_way.keys() - held
        for number in missing & self._missed:
            chunk = self._under_way[number]
            failure = Failure("InvalidResult", "a stage let go of it without a result", True)
            self._accept(number, Result(chunk.job.task.work[chunk.place].item.key, failure=failure), "")
        for stage in self._stages if missing & self._missed else ():
            if stage.inbox and stage.inbox.is_amid and stage.process:
                stage.process.kill()  # nothing that it says can be told apart any more
        self._missed = missing

    def _bury(self, stage: _Stage, hung: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        """Fail what a dead stage had in hand, and bring its rings in order for its successor."""
        assert stage.process is not None
        assert stage.pipe is not None
        stage.process.join()
        while self._receive(stage):
            pass
        stage.pipe.close()
        cause, name = cause_of(stage.process.exitcode), str(stage.process.pid)
        stage.process.close()
        lost = self._lost(stage)
        stage.source.recover(READING)
        if stage.target:
            stage.target.recover(WRITING)
        for ring in self._rings:
            ring.post()
        if not stage.is_ready:
            self._back_off(stage, cause)
        stage.process = stage.pipe = None
        for number, since in lost.items():
            failure = Failure("WorkerLost", f"its worker died: {cause}", True)
            if number in hung:
                limit = f"it took more than {self._settings.timeout:g} s (--timeout)"
                failure = Failure("ItemTimeout", limit, True)
            chunk = self._under_way[number]
            key = chunk.job.task.work[chunk.place].item.key
            spent = max(0.0, time.monotonic() - since)
            result = Result(key, failure=failure, started=time.time() - spent, lost=spent)
            self._accept(number, result, name)

    def _back_off(self, stage: _Stage, cause: str) -> None:
        """Wait before the next start; where there were too many in vain, give up what waits."""
        stage.stillborn += 1
        pause = FIRST_BACKOFF * 2.0 ** (stage.stillborn - 1)
        stage.next_start = time.monotonic() + min(pause, LONGEST_BACKOFF)
        if stage.stillborn < MOST_STILLBORN:
            return
        failure = Failure("WorkerLost", f"the stage {stage.function} does not start: {cause}")
        self._feed()
        for number, chunk in list(self._under_way.items()):
            self._accept(number, Result(chunk.job.task.work[chunk.place].item.key, failure=failure), "")

    def _lost(self, stage: _Stage) -> dict[int, float]:
        """What a dead stage had in hand and had not passed on, and since when.

        What it passed on is looked for in the order in which it goes, so that nothing slips by.
        """
        held = stage.source.held()
        after = self._stages[self._stages.index(stage) + 1 :]
        passed: set[int] = set()
        for later in after:
            passed |= later.source.has()
        for later in after:
            while later.pipe and later.pipe.poll() and self._receive(later):
                pass
        return {number: since for number, since in held.items() if number in self._under_way.keys() - passed}

    def _dismiss(self) -> None:
        """Let the stages go: the ends of their pipes tell them to leave."""
        for stage in self._stages:
            if stage.pipe:
                stage.pipe.close()
        until = time.monotonic() + GRACE
        for stage in self._stages:
            if stage.process:
                stage.process.join(max(0.0, until - time.monotonic()))
                if stage.process.is_alive():
                    stage.process.kill()
                    stage.process.join()
                stage.process.close()
