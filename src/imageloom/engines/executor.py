"""A transport for any `concurrent.futures.Executor`.

Arguments and return values are bytes: a library that uses pickle transfers only a function's name and bytes, and
both sides validate what they read. If the library can also send messages, a subclass reports the begin of
deliveries, and the result of each item.
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
from imageloom.model import UNREADABLE, Failure, Outcome, Result, Task
from imageloom.records.faults import failure_of
from imageloom.scheduling.engine import TransportEngine
from imageloom.scheduling.inbox import log, message_of
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
"""How often a task may be returned: tasks in a worker's own queue are returned each time that worker dies."""
WORKER = "executor"
"""The executor chooses the workers. For the scheduler it is one worker with many slots."""

_TASK, _OUTCOME = msgspec.msgpack.Decoder(Task), msgspec.msgpack.Decoder(Outcome)
"""Created before there are threads: msgspec 0.22 crashes if several threads use a type for the first time
together."""


def perform_packed(packed: bytes) -> bytes:
    """Run a task. The task and its outcome are packed as MessagePack."""
    return msgspec.msgpack.encode(perform(_TASK.decode(packed)))


def report_all(task: Task, worker: str, send: Callable[[bytes], object]) -> Outcome:
    """Run a task, and report its begin and each of its results.

    Args:
        worker: identifies the worker, so that the transport can end it.
        send: sends a message to `ExecutorTransport.report`.
    """
    send(msgspec.msgpack.encode(Message(task.id, worker=worker)))
    made: list[Result] = []
    for place, result in enumerate(results(task)):
        made.append(result)
        send(msgspec.msgpack.encode(Message(task.id, place, worker_name(), result)))
    return Outcome(task.id, worker_name(), tuple(made))


def outcome_of(packed: bytes, task: Task) -> Outcome:
    """Decode the outcome of a task. If it cannot be decoded or belongs to another task, all results are
    refused."""
    try:
        outcome = _OUTCOME.decode(packed)
    except (*UNREADABLE, TypeError) as error:
        return all_refused(task, "", shown(str(error)))
    return replace(outcome, results=all_of(task, outcome))


class ExecutorEngine(TransportEngine, Engine):
    """The engine of an executor transport.

    Args:
        timeout: time-out of one item, in seconds; 0 if items cannot be ended.
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
    """Sends each task as a call of an executor.

    Args:
        executor: `close` shuts it down. None if a subclass makes the calls.
        count: returns the number of calls that it runs at the same time. Called repeatedly.
        ahead: number of calls that may be queued for each one that runs. More than 1 hides the transfer time.
        lost: exceptions that the executor raises if a worker has died.
        reports_begin: a subclass calls `report` with a message for each begin and each result.
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
        """New events from any thread. They are handled in the engine's thread."""
        self._sent: dict[int, Task] = {}
        self._begun: dict[int, str] = {}
        """The worker of each delivery that was begun."""
        self._slots = 0
        self.capacity = max(1, count())

    def open(self, failed: Callable[[str], None]) -> None:
        """Does nothing: the library starts its workers."""

    def start(self) -> None:
        raise NotImplementedError("the library starts workers")

    def send(self, command: Send) -> None:
        task = command.task
        self._sent[task.id] = task
        try:
            call = self._call(msgspec.msgpack.encode(task))
        except Exception as error:  # the executor is broken or shut down
            self._put(partial(self._break, task.id, error, True))
        else:
            call.add_done_callback(lambda done: self._put(partial(self._handle_outcome, task.id, done)))

    def drop(self, command: Drop) -> None:
        """Does nothing: a running call cannot be stopped. Its late results are ignored."""

    def end(self, command: End) -> None:
        """Does nothing. A subclass that can end a call overrides it."""
        self._forget(command.delivery)

    def report(self, data: bytes) -> None:
        """Handle a worker's message, in any thread: a result, or without a result the begin of a delivery."""
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
        if not packed:  # all results were reported by messages
            return [Finished(WORKER, number)]
        outcome = outcome_of(packed, task)  # results that were reported before are ignored
        events: list[Event] = [
            Received(WORKER, number, place, result, result.worker or shown(outcome.worker))
            for place, result in enumerate(outcome.results)
        ]
        return [*events, Finished(WORKER, number)]

    def _break(self, number: int, error: BaseException, has_begun: bool) -> list[Event]:
        """The events for a failed call. A lost worker is reported as a death if the task had begun. A bug fails
        the item."""
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
