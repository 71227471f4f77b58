"""Any `concurrent.futures.Executor` as a transport.

Bytes go in and bytes come out, so that a library which pickles carries a function's name and bytes, and both ends
check what they read. Where the library can carry messages besides, a subclass reports what is begun, and results
item by item.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from functools import partial
from queue import Empty, SimpleQueue

import msgspec
from msgspec.structs import replace

from imageloom.engines import Capabilities, Engine
from imageloom.errors import InvalidResult, WorkerLost
from imageloom.model import Failure, Outcome, Result, Task
from imageloom.records.faults import failure_of
from imageloom.scheduling.engine import TransportEngine
from imageloom.scheduling.inbox import UNREADABLE, log, message_of
from imageloom.scheduling.protocol import (
    Begun,
    Broken,
    Drop,
    End,
    Event,
    Finished,
    Joined,
    Received,
    Returned,
    Send,
)
from imageloom.scheduling.results import all_of, all_refused, shown
from imageloom.scheduling.rules import Rules
from imageloom.worker.message import Message
from imageloom.worker.perform import perform, results, worker_name

MOST_RETURNS = 100
"""Times that a task may come back: what waits in a worker's own queue is returned whenever that worker dies."""
WORKER = "executor"
"""The executor chooses a worker by itself: to the scheduler it is one with many slots."""

_TASK, _OUTCOME = msgspec.msgpack.Decoder(Task), msgspec.msgpack.Decoder(Outcome)
"""Made before there are threads: msgspec (0.22) crashes where several need a type for the first time together."""


def perform_packed(packed: bytes) -> bytes:
    """Do a task, packed as MessagePack; its outcome, likewise."""
    return msgspec.msgpack.encode(perform(_TASK.decode(packed)))


def report_all(task: Task, worker: str, say: Callable[[bytes], object]) -> Outcome:
    """Do a task, and report its begin and each of its results.

    Args:
        worker: what the transport can end it by.
        say: carries a message to `ExecutorTransport.report`.
    """
    say(msgspec.msgpack.encode(Message(task.id, worker=worker)))
    made: list[Result] = []
    for place, result in enumerate(results(task)):
        made.append(result)
        say(msgspec.msgpack.encode(Message(task.id, place, worker_name(), result)))
    return Outcome(task.id, worker_name(), tuple(made))


def outcome_of(packed: bytes, task: Task) -> Outcome:
    """The outcome of a task; of refused results where it cannot be read or is another task's."""
    try:
        outcome = _OUTCOME.decode(packed)
    except (*UNREADABLE, TypeError) as error:
        return all_refused(task, "", shown(str(error)))
    return replace(outcome, results=all_of(task, outcome))


class ExecutorEngine(TransportEngine, Engine):
    """The engine of an executor transport.

    Args:
        timeout: seconds that an item may take; 0 where it cannot be ended.
    """

    capabilities = Capabilities(reports_results=True)

    def __init__(self, transport: ExecutorTransport, timeout: float = 0.0) -> None:
        self._executor = transport
        rules = Rules(
            timeout=timeout,
            ends="delivery",
            isolation="engine",
            cuts=False,
            ends_liars=False,
            returns=MOST_RETURNS,
        )
        super().__init__("executor", transport, rules)

    @property
    def capacity(self) -> int:
        return self._executor.capacity


class ExecutorTransport:
    """Carries each task by a call of an executor.

    Args:
        executor: `close` shuts it down; None where a subclass makes the calls.
        count: tells how many calls it runs at the same time, asked for again and again.
        ahead: calls that it may hold for each that it can run; more than 1 hides the way there and back.
        lost: what the executor raises where a worker has died.
        reports_begin: a subclass calls `report` with messages of what is begun and what is done.
    """

    def __init__(
        self,
        executor: Executor | None,
        count: Callable[[], int],
        *,
        ahead: int = 1,
        lost: tuple[type[BaseException], ...] = (),
        reports_begin: bool = False,
    ) -> None:
        self._executor = executor
        self._count = count
        self._ahead = ahead
        self._lost: tuple[type[BaseException], ...] = (BrokenExecutor, *lost)
        self._reports_begin = reports_begin
        self._events: SimpleQueue[Callable[[], list[Event]]] = SimpleQueue()
        """What has come, from whatever thread; it is looked at in the engine's."""
        self._sent: dict[int, Task] = {}
        self._begun: dict[int, str] = {}
        """By delivery that was begun: the worker that has it."""
        self._slots = 0
        self.capacity = max(1, count())

    def open(self, failed: Callable[[str], None]) -> None:
        """The library starts its workers."""

    def start(self) -> None:
        raise NotImplementedError("the library starts workers")

    def send(self, command: Send) -> None:
        task = command.task
        self._sent[task.id] = task
        try:
            call = self._call(msgspec.msgpack.encode(task))
        except Exception as error:  # it is broken, or shut down
            self._put(partial(self._break, task.id, error, True))
        else:
            call.add_done_callback(lambda done: self._put(partial(self._handle_outcome, task.id, done)))

    def drop(self, command: Drop) -> None:
        """A call that runs cannot be stopped: its results come too late."""

    def end(self, command: End) -> None:
        """Subclasses that can end a call do so, and forget it."""
        self._forget(command.delivery)

    def report(self, data: bytes) -> None:
        """Take in a worker's message, from any thread: a result, or no result for a delivery that it begins."""
        self._put(partial(self._read, data))

    def events(self, patience: float | None) -> list[Event]:
        events: list[Event] = []
        self.capacity = max(1, self._count())
        if self._slots != self.capacity:
            self._slots = self.capacity
            ahead = (self._ahead - 1) * self._slots
            events.append(Joined(WORKER, self._slots, ahead, reports_begin=self._reports_begin))
        with contextlib.suppress(Empty):
            found = self._events.get(timeout=0.0 if events else patience)
            while True:
                events += found()
                found = self._events.get_nowait()
        return events

    def wake(self) -> None:
        self._put(list)

    def close(self, patience: float) -> None:
        if self._executor:
            self._executor.shutdown()

    def _call(self, packed: bytes) -> Future[bytes]:
        assert self._executor is not None, "a subclass makes the calls"
        return self._executor.submit(perform_packed, packed)

    def _put(self, event: Callable[[], list[Event]]) -> None:
        self._events.put(event)

    # In the engine's thread

    def _forget(self, number: int) -> None:
        self._sent.pop(number, None)
        self._begun.pop(number, None)

    def _read(self, data: bytes) -> list[Event]:
        try:
            message = message_of(data)
        except InvalidResult as error:
            log.warning("refused a message from a worker: %s", error)
            return []
        number = message.delivery
        if number not in self._sent:
            return []
        if message.result is None:
            self._begun[number] = message.worker
            return [Begun(WORKER, number)]
        return [Received(WORKER, number, message.place, message.result, message.worker)]

    def _handle_outcome(self, number: int, call: Future[bytes]) -> list[Event]:
        task = self._sent.get(number)
        if task is None:
            return []
        try:
            packed = call.result()
        except BaseException as error:
            return self._break(number, error, number in self._begun or not self._reports_begin)
        self._forget(number)
        if not packed:  # all was reported
            return [Finished(WORKER, number)]
        outcome = outcome_of(packed, task)  # what was reported before is taken once
        events: list[Event] = [
            Received(WORKER, number, place, result, result.worker or shown(outcome.worker))
            for place, result in enumerate(outcome.results)
        ]
        return [*events, Finished(WORKER, number)]

    def _break(self, number: int, error: BaseException, has_begun: bool) -> list[Event]:
        """A lost worker in our words; what it had not begun costs nothing, and what is a bug fails the item."""
        task = self._sent.get(number)
        self._forget(number)
        if task is None:
            return []
        if not isinstance(error, (*self._lost, CancelledError)):
            return [Broken(WORKER, number, failure_of(task.work[0].item.key, error))]
        if isinstance(error, CancelledError) or not has_begun:
            return [Returned(WORKER, number)]
        reason = f"its worker died: {type(error).__name__}: {shown(str(error))}"
        return [Broken(WORKER, number, Failure.of(WorkerLost(reason)))]
