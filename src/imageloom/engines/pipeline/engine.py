"""Three supervised processes in a row: a loader, a filter and an encoder, connected by ring buffers of pixels.

    tasks -> ring -> load -> ring -> filter -> ring -> finish -> results

Images are in different stages at the same time. A full ring blocks a stage that is faster than the next one. Each
stage has a pool of threads, whose size is found by measuring the throughput.

For the scheduler, the three stages are one worker, and each item is a delivery. A stage that dies is restarted:
the items that its threads were processing are charged, and the new process takes the items in the rings. `ring`
describes why the death of a stage at any moment does not block the others.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess

from msgspec.structs import replace

from imageloom.engines import Capabilities, Engine, Settings
from imageloom.engines.pipeline.ring import READING, WRITING, Ring
from imageloom.engines.pipeline.stage import Description, encode, serve
from imageloom.errors import EngineFailed, InvalidResult, UsageError
from imageloom.model import Failure
from imageloom.scheduling.backoff import Backoff
from imageloom.scheduling.engine import TransportEngine
from imageloom.scheduling.inbox import Inbox, log, message_of
from imageloom.scheduling.protocol import (
    Begun,
    Broken,
    Drop,
    End,
    Event,
    Joined,
    Paused,
    Received,
    Returned,
    Send,
)
from imageloom.scheduling.rules import Rules
from imageloom.scheduling.scheduler import FIRST_BACKOFF, LONGEST_BACKOFF
from imageloom.scheduling.transport import Waker
from imageloom.system.exits import cause_of
from imageloom.worker.fork_server import warm_up
from imageloom.worker.process import start

WORKER = "pipeline"
"""The scheduler's only worker."""
STAGES = (
    "imageloom.engines.pipeline.stage:load",
    "imageloom.engines.pipeline.stage:run_filters",
    "imageloom.engines.pipeline.stage:finish",
)
SLOTS = 64
"""Maximum number of chunks in a ring."""
BUDGET = 64 << 20
"""Maximum size of the pixels in a ring, in bytes. A single chunk may be larger."""
MOST_FAILED_STARTS = 6
"""Number of processes of a stage in a row that may die before they are ready. Then the engine fails."""
LONGEST_CHECK_INTERVAL = 1.0
"""Longest time between two checks of the items in the stages, in seconds."""


class Pipeline(TransportEngine, Engine):
    """The engine.

    Args:
        stages: the function of each stage, a `stage.Stage`, as `module:function`.
        sizes: minimum, maximum and first number of threads of each stage; None to derive them from the settings.

    Raises:
        UsageError: this system is not Linux: it has no memfd or no eventfd.
        StorageError: shared memory cannot be allocated.
    """

    capabilities = Capabilities(
        splits_stages=True, reports_results=True, ends_items=True, survives_death=True
    )

    def __init__(
        self,
        settings: Settings,
        stages: tuple[str, str, str] = STAGES,
        sizes: Sequence[tuple[int, int, int]] | None = None,
    ) -> None:
        if not hasattr(os, "memfd_create") or not hasattr(os, "eventfd"):
            raise UsageError("--engine pipeline needs Linux; use --engine processes")
        self._jobs = settings.jobs
        self._rings = RingTransport(settings, stages, sizes)
        rules = Rules(
            timeout=settings.timeout,
            ends="delivery",
            isolation="engine",
            splits=True,
            cuts=False,
            ends_liars=False,
        )
        super().__init__("supervisor", self._rings, rules)

    @property
    def capacity(self) -> int:
        """The number of items that are loaded together. It is above the number of workers if loading waits for
        stores."""
        return max(self._jobs, self._rings.loading)


@dataclass(eq=False)
class StageProcess:
    """A stage, and its process while it is running."""

    function: str
    threads: tuple[int, int, int]
    source: Ring
    target: Ring | None
    process: ForkServerProcess | None = None
    pipe: Connection | None = None
    inbox: Inbox | None = None
    is_ready: bool = False
    """Whether the process has reported that its imports are done."""
    backoff: Backoff = field(default_factory=lambda: Backoff(FIRST_BACKOFF, LONGEST_BACKOFF))
    """Back-off for processes in a row that died before they were ready."""


class RingTransport:
    """The transport: puts items into the first ring, receives results from the stages, and replaces dead
    stages."""

    def __init__(
        self, settings: Settings, stages: tuple[str, str, str], sizes: Sequence[tuple[int, int, int]] | None
    ) -> None:
        self._settings = settings
        self._context = warm_up("imageloom.engines.pipeline.stage")
        self._rings = [Ring(SLOTS, BUDGET) for _ in stages]
        jobs = settings.jobs
        sizes = sizes or ((1, 16 * jobs, 2 * jobs), (1, jobs, jobs), (1, 4 * jobs, jobs))
        self._stages = [
            StageProcess(*each)
            for each in zip(stages, sizes, self._rings, [*self._rings[1:], None], strict=True)
        ]
        self._unsent: deque[tuple[int, bytes]] = deque()
        """Tasks that do not fit into the first ring yet."""
        self._sent: set[int] = set()
        """Deliveries without a result, including the waiting ones."""
        self._begun: dict[int, Ring] = {}
        """Deliveries whose time-out runs, and the ring that each was taken from."""
        self._missed: set[int] = set()
        """Deliveries that were in no ring at the last check, and have no result."""
        self._next_check = 0.0
        self._events: list[Event] = [Joined(WORKER, SLOTS * len(stages), reports_begin=True)]
        self._waker = Waker()
        self.wake = self._waker.wake

    @property
    def loading(self) -> int:
        """Number of items that the first stage can load at the same time; 0 if the rings are closed."""
        try:
            return self._rings[0].readers
        except ValueError:
            return 0

    def open(self, failed: Callable[[str], None]) -> None:
        """Does nothing: the stages are started by `events`, like any missing stage."""

    def start(self) -> None:
        raise NotImplementedError("there is one worker only")

    def send(self, command: Send) -> None:
        task = command.task
        description = Description(encode(replace(task, id=0, work=())), task.work[0])
        self._unsent.append((task.id, encode(description)))
        self._sent.add(task.id)
        self._put()

    def _put(self) -> None:
        """Put waiting tasks into the first ring."""
        while self._unsent and self._rings[0].try_put(*self._unsent[0]):
            self._unsent.popleft()

    def drop(self, command: Drop) -> None:
        """Does nothing: a delivery has only one item."""

    def end(self, command: End) -> None:
        """End the stage that processes an item. Its other items are repeated."""
        number = command.delivery
        self._forget(number)
        for stage in self._stages:
            if stage.process and number in stage.source.held():
                stage.process.kill()
                self._replace(stage, is_ended=True)

    # Events

    def events(self, patience: float | None) -> list[Event]:
        self._start_missing()
        by_pipe = {stage.pipe: stage for stage in self._stages if stage.pipe}
        for ready in wait([self._waker.file, self._rings[0].room, *by_pipe], self._until_next(patience)):
            if isinstance(ready, Connection):
                stage = by_pipe[ready]
                # The replacement of another stage may have read these messages already.
                if stage.pipe is ready and ready.poll() and not self._receive(stage):
                    self._replace(stage)
            elif ready == self._waker.file:
                self._waker.clear()
            else:
                os.read(self._rings[0].room, 8)
        self._put()
        if time.monotonic() >= self._next_check:
            self._check_stages()
        events, self._events = self._events, []
        return events

    def _until_next(self, patience: float | None) -> float | None:
        """Seconds until an event that no file descriptor reports."""
        if self._events:
            return 0.0
        now = time.monotonic()
        due = [stage.backoff.until - now for stage in self._stages if stage.process is None]
        if self._sent:
            due.append(self._next_check - now)
        if patience is not None:
            due.append(patience)
        return max(0.0, min(due)) if due else None

    def _receive(self, stage: StageProcess) -> bool:
        """Read results. Returns False if the stage is dead and all was read, or if it sent an invalid message."""
        assert stage.inbox is not None
        try:
            for data in stage.inbox.take():
                message = message_of(data)
                if message.result is None:
                    stage.is_ready = True
                    stage.backoff.succeed()
                else:
                    self._forget(message.delivery)
                    self._events.append(Received(WORKER, message.delivery, 0, message.result, message.worker))
        except (EOFError, OSError):
            return False
        except InvalidResult as error:
            assert stage.process is not None
            log.warning("refused a message from stage %s and ended the stage: %s", stage.process.pid, error)
            stage.process.kill()
            return False
        return True

    def _forget(self, number: int) -> None:
        self._sent.discard(number)
        self._begun.pop(number, None)

    # Items in the stages

    def _check_stages(self) -> None:
        """Report items that have begun or are paused, and items that a stage has lost."""
        now = time.monotonic()
        self._next_check = now + min(
            LONGEST_CHECK_INTERVAL, self._settings.timeout / 4 or LONGEST_CHECK_INTERVAL
        )
        held = {}
        for stage in self._stages:
            for number, since in stage.source.held().items():
                if since < float("inf") and number in self._sent:
                    held[number] = stage.source
                    self._report_begun(number, stage.source, now - since)
        self._events += [Paused(WORKER, number) for number in self._begun.keys() - held.keys()]
        self._begun = held
        self._fail_missing()

    def _report_begun(self, number: int, ring: Ring, ago: float) -> None:
        """Report the begin of an item if it was taken from another ring than before. Its time-out restarts."""
        before = self._begun.get(number)
        if before is not ring:
            self._events += [Paused(WORKER, number)] if before else []
            self._events.append(Begun(WORKER, number, ago))

    def _fail_missing(self) -> None:
        """Fail the items that are in no ring at two checks, and have no result."""
        waiting = {number for number, _ in self._unsent}
        missing = self._sent - waiting - set().union(*(ring.has() for ring in self._rings))
        lost = missing & self._missed
        self._missed = missing
        for number in lost:
            failure = Failure("InvalidResult", "a stage returned it without a result", True)
            self._events.append(Broken(WORKER, number, failure))
            self._forget(number)
        for stage in self._stages if lost else ():
            if stage.inbox and stage.inbox.is_amid and stage.process:
                stage.process.kill()  # its later messages could not be assigned

    # Stages

    def _start_missing(self) -> None:
        for stage in self._stages:
            if stage.process is None and time.monotonic() >= stage.backoff.until:
                self._start(stage)

    def _start(self, stage: StageProcess) -> None:
        stage.pipe, theirs = self._context.Pipe()
        stage.inbox = Inbox(stage.pipe)
        stage.is_ready = False
        ends = (stage.source, stage.target)
        settings = self._settings
        stage.process = start(
            self._context,
            serve,
            theirs,
            stage.function,
            *ends,
            stage.threads,
            settings.memory,
            sandboxed=settings.sandbox.is_on and stage is self._stages[0],
        )
        theirs.close()

    def _replace(self, stage: StageProcess, is_ended: bool = False) -> None:
        """Report the items of a dead stage, and repair its rings for the new process.

        Args:
            is_ended: whether it was ended because of one item, which is already charged.
        """
        assert stage.process is not None
        assert stage.pipe is not None
        stage.process.join()
        while self._receive(stage):
            pass
        stage.pipe.close()
        cause = cause_of(stage.process.exitcode)
        stage.process.close()
        lost = self._lost(stage)
        stage.source.recover(READING)
        if stage.target:
            stage.target.recover(WRITING)
        for ring in self._rings:
            ring.post()
        stage.process = stage.pipe = None
        failure, now = Failure("WorkerLost", f"its worker died: {cause}", True), time.monotonic()
        for number, since in lost.items():
            if is_ended or since == float("inf"):  # it only waits for the next ring
                self._events.append(Returned(WORKER, number))
            else:
                self._report_begun(number, stage.source, now - since)
                self._events.append(Broken(WORKER, number, failure))
            self._forget(number)
        if not stage.is_ready:
            stage.backoff.fail(now)
            if stage.backoff.failures >= MOST_FAILED_STARTS:
                raise EngineFailed(f"the stage {stage.function} cannot start: {cause}")

    def _lost(self, stage: StageProcess) -> dict[int, float]:
        """The items that a dead stage had taken and not passed on, with the time since which it had them.

        The rings and the pipe are searched in the order in which items move, so that none is missed.
        """
        held = stage.source.held()
        after = self._stages[self._stages.index(stage) + 1 :]
        passed: set[int] = set()
        for later in after:
            passed |= later.source.has()
        for later in after:
            while later.pipe and later.pipe.poll() and self._receive(later):
                pass
        return {number: since for number, since in held.items() if number in self._sent - passed}

    def close(self, patience: float) -> None:
        """Close the pipes of the stages, so that they exit."""
        for stage in self._stages:
            if stage.pipe:
                stage.pipe.close()
            if stage.process and not stage.is_ready:  # it is still starting, and has nothing to finish
                stage.process.kill()
        until = time.monotonic() + patience
        for stage in self._stages:
            if stage.process:
                stage.process.join(max(0.0, until - time.monotonic()))
                if stage.process.is_alive():
                    stage.process.kill()
                    stage.process.join()
                stage.process.close()
        for ring in self._rings:
            ring.close()
        self._waker.close()
