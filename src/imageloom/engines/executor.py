"""Any `concurrent.futures.Executor` as an engine.

Bytes go in and bytes come out, so that a library which pickles carries a function's name and bytes, and both
ends check what they read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from functools import partial

import msgspec

from imageloom.engines import Engine
from imageloom.errors import WorkerLost
from imageloom.model import Outcome, Task
from imageloom.scheduling.backlog import Backlog, Entry
from imageloom.scheduling.board import UNREADABLE
from imageloom.scheduling.results import all_refused, shown
from imageloom.worker.work import perform

_TASKS, _OUTCOMES = msgspec.msgpack.Decoder(list[Task]), msgspec.msgpack.Decoder(Outcome)
"""Made before there are threads: msgspec (0.22) crashes where several need a type for the first time together."""


def perform_packed(packed: bytes) -> bytes:
    """Do a list of tasks, packed as MessagePack, at the same time; the list of their outcomes, likewise."""
    tasks = _TASKS.decode(packed)
    if len(tasks) == 1:
        return msgspec.msgpack.encode([perform(tasks[0])])
    with ThreadPoolExecutor(len(tasks), thread_name_prefix="thread") as pool:
        return msgspec.msgpack.encode(list(pool.map(perform, tasks)))


def outcomes_of(packed: bytes, tasks: list[Task]) -> list[Outcome]:
    """The outcomes of tasks, packed as by `perform_packed`; refused ones where they cannot be read."""
    reason = "it is no list of as many outcomes"
    try:
        found = msgspec.msgpack.decode(packed, type=list[msgspec.Raw])
        if len(found) == len(tasks):
            return [outcome_of(one, task) for one, task in zip(found, tasks, strict=True)]
    except (*UNREADABLE, TypeError) as error:
        reason = shown(str(error))
    return [all_refused(task, "", reason) for task in tasks]


def outcome_of(packed: bytes | msgspec.Raw, task: Task) -> Outcome:
    """The outcome of a task; a refused one where it cannot be read."""
    try:
        return _OUTCOMES.decode(packed)
    except UNREADABLE as error:
        return all_refused(task, "", shown(str(error)))


class ExecutorEngine(Engine):
    """Runs tasks by calls of an executor.

    Args:
        executor: `close` shuts it down.
        capacity: how many tasks it runs at the same time, asked for again and again.
        ahead: calls that it may hold for each that it can run; more than 1 hides the way there and back.
        threads: tasks that go along in one call, to be done in threads by a worker that takes one call at a
            time.
        lost: what the executor raises where a worker has died.
    """

    def __init__(
        self,
        executor: Executor,
        capacity: Callable[[], int],
        *,
        ahead: int = 1,
        threads: int = 1,
        lost: tuple[type[BaseException], ...] = (),
    ) -> None:
        self._executor = executor
        self._capacity = capacity
        self._ahead = ahead
        self._threads = threads
        self._lost: tuple[type[BaseException], ...] = (BrokenExecutor, *lost)
        self._backlog = Backlog()
        self._lock = threading.Lock()
        self._calls = 0
        self._most = capacity()

    @property
    def capacity(self) -> int:
        """For the driver's thread alone: a library's own thread, which tells what is done, cannot ask it."""
        self._most = self._capacity()
        return self._most

    def submit(self, task: Task) -> Future[Outcome]:
        entry = Entry(task)
        self._backlog.add(entry)
        self._hand_over()
        return entry.future

    def close(self) -> None:
        for entry in self._backlog.clear():
            entry.future.cancel()
        self._executor.shutdown()

    def _hand_over(self) -> None:
        """Call the executor while it has room and something waits."""
        while bundle := self._next():
            try:
                packed = msgspec.msgpack.encode([entry.task for entry in bundle])
                call = self._executor.submit(perform_packed, packed)
            except Exception as error:  # it is broken, or shut down
                self._is_back(bundle)
                self._fail(bundle, error)
            else:
                call.add_done_callback(partial(self._take_in, bundle))

    def _next(self) -> list[Entry]:
        """What goes along in the next call; nothing where the executor has its fill."""
        with self._lock:
            has_room = self._calls * self._threads < self._ahead * self._most
            bundle = self._backlog.take(self._threads) if has_room else []
            self._calls += bool(bundle)
        return bundle

    def _is_back(self, bundle: list[Entry]) -> None:
        with self._lock:
            self._calls -= 1
        self._backlog.answered(bundle)

    def _take_in(self, bundle: list[Entry], call: Future[bytes]) -> None:
        """In whatever thread the library tells it, which swallows what is raised here."""
        self._is_back(bundle)
        try:
            self._hand_over()  # the worker is free: first something new for it
        finally:
            self._answer(bundle, call)

    def _answer(self, bundle: list[Entry], call: Future[bytes]) -> None:
        try:
            packed = call.result()
        except BaseException as error:
            self._fail(bundle, error)
            return
        for entry, outcome in zip(bundle, outcomes_of(packed, [e.task for e in bundle]), strict=True):
            entry.future.set_result(outcome)

    def _fail(self, bundle: list[Entry], error: BaseException) -> None:
        for entry in bundle:
            entry.future.set_exception(self._translated(error))

    def _translated(self, error: BaseException) -> BaseException:
        """A lost worker in our words; what was cancelled stays so, and what is a bug as well."""
        if isinstance(error, self._lost) and not isinstance(error, CancelledError):
            return WorkerLost(f"its worker died: {type(error).__name__}: {error}")
        return error
