"""An engine that runs a scheduler and a transport in its own thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from random import Random

from imageloom.errors import EngineFailed, WorkerLost
from imageloom.model import Failure, Outcome, Task
from imageloom.scheduling.inbox import fail, start_thread
from imageloom.scheduling.policies import Choice
from imageloom.scheduling.protocol import (
    Cancelled,
    Command,
    Completed,
    Drop,
    End,
    Event,
    Progress,
    Send,
    Start,
    Ticket,
)
from imageloom.scheduling.results import ResultCallback
from imageloom.scheduling.rules import Rules
from imageloom.scheduling.scheduler import Scheduler
from imageloom.scheduling.states import WorkerState
from imageloom.scheduling.transport import Transport

GRACE = 5.0
"""Time in seconds for workers to exit when the engine is closed. Then they are ended."""


class EngineCore:
    """Accepts tasks from the driver and runs them with a scheduler and a transport. It has no thread of its own.

    Args:
        clock: returns a monotonic time in seconds.
    """

    def __init__(
        self, scheduler: Scheduler, transport: Transport, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.scheduler = scheduler
        self._transport = transport
        self._clock = clock
        self._submitted: SimpleQueue[tuple[Ticket, Future[Outcome], ResultCallback | None]] = SimpleQueue()
        self._abandoned: SimpleQueue[Future[Outcome]] = SimpleQueue()
        self._cut_short: SimpleQueue[Task] = SimpleQueue()
        self._waiting: dict[Ticket, tuple[Future[Outcome], ResultCallback | None]] = {}
        self._closing = self._is_killed = self._has_ended = False
        self._broken = ""

    @property
    def capacity(self) -> int:
        """Number of tasks that run at the same time. A subclass overrides it if workers connect by themselves."""
        return max(1, self.scheduler.rules.jobs)

    @property
    def worker_states(self) -> tuple[WorkerState, ...]:
        """See `engines.Engine`."""
        now = self._clock()
        return tuple(worker.state(now) for worker in self.scheduler.workers)

    def submit(self, task: Task, on_result: ResultCallback | None = None) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        if self._broken:
            future.set_exception(EngineFailed(self._broken))
            return future
        ticket = Ticket(task, future.set_running_or_notify_cancel, reports=on_result is not None)
        self._submitted.put((ticket, future, on_result))
        self._transport.wake()
        if self._broken:  # the thread may have failed since the check above
            self._fail(self._broken)
        if self._has_ended:
            self._take_submitted()  # it is cancelled
        return future

    def abandon(self, future: Future[Outcome]) -> None:
        """End the items in progress of a task whose results are no longer needed. This frees its workers."""
        if not (future.cancel() or future.done()):
            self._abandoned.put(future)
            self._transport.wake()

    def cut_short(self, task: Task) -> None:
        """See `engines.Engine`."""
        self._cut_short.put(task)
        self._transport.wake()

    def _step(self) -> bool:
        """Handle new tasks and events. Returns False when the engine is closed and nothing is in progress."""
        scheduler = self.scheduler
        if self._is_killed:
            return False
        self._take_submitted()
        self._take_abandoned()
        self._take_cut_short()
        if self._closing and not scheduler.is_closing:
            scheduler.close()
        scheduler.tick(self._clock())
        self._perform()
        if scheduler.is_closing and scheduler.is_idle:
            scheduler.give_up(Failure.of(WorkerLost("the engine was closed")), self._clock())
            self._perform()
            return False
        for event in self._events(scheduler.next_due(self._clock())):
            scheduler.handle(event, self._clock())
            self._perform()
        return True

    def _events(self, patience: float | None) -> Iterable[Event]:
        return self._transport.events(patience)

    def _take_submitted(self) -> None:
        while True:
            try:
                ticket, future, on_result = self._submitted.get_nowait()
            except Empty:
                return
            if self._closing:
                future.cancel()
                continue
            self._waiting[ticket] = future, on_result
            self.scheduler.submit(ticket, self._clock())

    def _take_abandoned(self) -> None:
        while not self._abandoned.empty():
            future = self._abandoned.get()
            for ticket in [ticket for ticket, (known, _) in self._waiting.items() if known is future]:
                self.scheduler.abandon(ticket, self._clock())

    def _take_cut_short(self) -> None:
        while not self._cut_short.empty():
            task = self._cut_short.get()
            for ticket in [ticket for ticket in self._waiting if ticket.task is task]:
                self.scheduler.cut_short(ticket, self._clock())

    def _perform(self) -> None:
        """Carry out the scheduler's commands."""
        while commands := self.scheduler.take_commands():
            for command in commands:
                self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, Send):
            self._transport.send(command)
        elif isinstance(command, Completed):
            self._waiting.pop(command.ticket)[0].set_result(command.outcome)
        elif isinstance(command, Progress):
            on_result = self._waiting[command.ticket][1]
            if on_result is not None:
                on_result(command.place, command.result)
        elif isinstance(command, Start):
            self._transport.start()
        elif isinstance(command, Drop):
            self._transport.drop(command)
        elif isinstance(command, End):
            self._transport.end(command)
        elif isinstance(command, Cancelled):
            self._waiting.pop(command.ticket)[0].cancel()

    def _fail(self, reason: str) -> None:
        """Called when the thread has failed: fail all unfinished tasks, and all tasks submitted from now on."""
        self._broken = reason
        while True:
            try:
                ticket, future, on_result = self._submitted.get_nowait()
            except Empty:
                break
            self._waiting[ticket] = future, on_result
        for future, _ in list(self._waiting.values()):
            fail(future, EngineFailed(reason))


class TransportEngine(EngineCore):
    """An engine that runs in its own thread.

    Args:
        name: name of the thread.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        rules: Rules,
        choice: Choice | None = None,
        random: Random | None = None,
    ) -> None:
        scheduler = Scheduler(rules, choice, random, epoch=time.time() - time.monotonic())
        super().__init__(scheduler, transport)
        self._lock = threading.Lock()
        self._thread = start_thread(name, self._run, self._fail)

    def close(self) -> None:
        """Cancel the tasks that no worker has started, wait for the others, and release the workers."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._transport.wake()
        self._thread.join()

    def kill(self) -> None:
        """Close the engine without waiting for the tasks in progress: their workers are ended by force."""
        self._is_killed = True
        self.close()
        self._thread.join()  # it may have been closing already

    def _run(self) -> None:
        try:
            self._transport.open(self._fail)
            while self._step():
                pass
            self._has_ended = True
            self._take_submitted()  # what was submitted during the last step is cancelled
        finally:
            self._transport.close(0.0 if self._is_killed else GRACE)
