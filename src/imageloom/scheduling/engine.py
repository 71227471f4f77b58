"""An engine made of the scheduler and a transport, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from random import Random

from imageloom.errors import EngineFailed
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
from imageloom.scheduling.results import Told
from imageloom.scheduling.rules import Rules
from imageloom.scheduling.scheduler import Scheduler
from imageloom.scheduling.transport import Transport

GRACE = 5.0
"""Seconds that workers have to leave when the engine is closed."""


class TransportEngine:
    """Takes tasks from the driver, and has the scheduler and the transport do them.

    Args:
        name: of the thread.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        rules: Rules,
        choice: Choice | None = None,
        random: Random | None = None,
    ) -> None:
        self.scheduler = Scheduler(rules, choice, random, epoch=time.time() - time.monotonic())
        self._transport = transport
        self._submitted: SimpleQueue[tuple[Ticket, Future[Outcome], Told | None]] = SimpleQueue()
        self._waiting: dict[Ticket, tuple[Future[Outcome], Told | None]] = {}
        self._lock = threading.Lock()
        self._closing = False
        self._broken = ""
        self._thread = start_thread(name, self._run, self._fail)

    @property
    def capacity(self) -> int:
        """How many tasks run at the same time; for workers that come by themselves a subclass says it."""
        return max(1, self.scheduler.rules.jobs)

    def submit(self, task: Task, told: Told | None = None) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        if self._broken:
            future.set_exception(EngineFailed(self._broken))
            return future
        ticket = Ticket(task, future.set_running_or_notify_cancel, reports=told is not None)
        self._submitted.put((ticket, future, told))
        self._transport.wake()
        if self._broken:  # meanwhile
            self._fail(self._broken)
        return future

    def close(self) -> None:
        """Cancel what no worker has begun, wait for the rest, and let the workers go."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._transport.wake()
        self._thread.join()

    # The engine's thread

    def _run(self) -> None:
        try:
            self._transport.open(self._fail)
            while self._step():
                pass
        finally:
            self._transport.close(GRACE)

    def _step(self) -> bool:
        """Handle what has come; False when the engine is closed and nothing is in progress."""
        scheduler = self.scheduler
        self._take_submitted()
        if self._closing and not scheduler.is_closing:
            scheduler.close()
        scheduler.tick(time.monotonic())
        self._perform()
        if scheduler.is_closing and scheduler.is_idle:
            scheduler.give_up(Failure("WorkerLost", "the engine was closed", True), time.monotonic())
            self._perform()
            return False
        for event in self._events(scheduler.next_due(time.monotonic())):
            scheduler.handle(event, time.monotonic())
            self._perform()
        return True

    def _events(self, patience: float | None) -> Iterable[Event]:
        return self._transport.events(patience)

    def _take_submitted(self) -> None:
        while True:
            try:
                ticket, future, told = self._submitted.get_nowait()
            except Empty:
                return
            if self._closing:
                future.cancel()
                continue
            self._waiting[ticket] = future, told
            self.scheduler.submit(ticket, time.monotonic())

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
            told = self._waiting[command.ticket][1]
            if told is not None:
                told(command.place, command.result)
        elif isinstance(command, Start):
            self._transport.start()
        elif isinstance(command, Drop):
            self._transport.drop(command)
        elif isinstance(command, End):
            self._transport.end(command)
        elif isinstance(command, Cancelled):
            self._waiting.pop(command.ticket)[0].cancel()

    def _fail(self, reason: str) -> None:
        """The thread has failed: fail what is not done, and all that is submitted from now on."""
        self._broken = reason
        while True:
            try:
                ticket, future, told = self._submitted.get_nowait()
            except Empty:
                break
            self._waiting[ticket] = future, told
        for future, _ in list(self._waiting.values()):
            fail(future, EngineFailed(reason))
