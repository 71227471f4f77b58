"""Pools of threads that have the size which a controller wants."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Generic, ParamSpec, TypeVar

from imageloom.worker.controller import Controller

T = TypeVar("T")
P = ParamSpec("P")

BUNCH = 32
"""Calls that go on together, at the most; and half as many as the pool has threads."""
LONGEST_WAIT = 0.1
"""Seconds that a call waits for others."""


class SizedPool:
    """Threads that repeat one function, as many as the controller wants.

    Args:
        turn: does one piece of work; it waits for it if there is none. True: a thread is to end.
        controller: told of each piece of work that is done.
        name: begins the threads' names; a thread has the number of one that has ended, where there is one.
        wanted: how many threads there is work for now: no others are begun; None where that is not known.
    """

    def __init__(
        self,
        turn: Callable[[], bool | None],
        controller: Controller,
        name: str,
        wanted: Callable[[], int] | None = None,
    ) -> None:
        self._turn = turn
        self._wanted = wanted or (lambda: controller.most)
        self._controller = controller
        self._name = name
        self._lock = threading.Lock()
        self._threads: dict[threading.Thread, int] = {}
        self._ending = False
        self.grow()

    def grow(self) -> None:
        """Begin the threads that are missing."""
        if len(self._threads) < self._controller.size:
            with self._lock:
                self._grow()

    def join(self) -> None:
        """Wait until all threads have ended."""
        while threads := list(self._threads):
            threads[0].join()

    def _grow(self) -> None:
        while len(self._threads) < min(self._controller.size, self._wanted()) and not self._ending:
            taken = self._threads.values()
            number = next(number for number in itertools.count(1) if number not in taken)
            thread = threading.Thread(target=self._run, name=f"{self._name}-{number}", daemon=True)
            self._threads[thread] = number
            thread.start()

    def _run(self) -> None:
        while not self._turn():
            if len(self._threads) >= self._controller.size:  # one that is not full says nothing of its size
                self._controller.record()
            if len(self._threads) > self._controller.size:
                if self._has_shrunk():
                    return
            elif len(self._threads) < self._wanted():
                self.grow()
        with self._lock:
            self._ending = True
            self._threads.pop(threading.current_thread(), None)

    def _has_shrunk(self) -> bool:
        """End this thread if it is one too many: true where it is to go."""
        with self._lock:
            too_many = len(self._threads) > self._controller.size
            if too_many:
                self._threads.pop(threading.current_thread(), None)
            return too_many


class SizedExecutor(Executor):
    """An executor whose threads are as many as its controller wants, where there are calls for them."""

    def __init__(self, controller: Controller, name: str) -> None:
        self._controller = controller
        self._waiting: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_shut = False
        self._calls: set[Callable[[], object]] = set()
        """Those that wait and those under way."""
        self._pool = SizedPool(self._turn, controller, name, lambda: len(self._calls))

    @property
    def size(self) -> int:
        """How many threads it is to have."""
        return self._controller.size

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        call = _Call(partial(fn, *args, **kwargs))
        self.post(call)
        return call.future

    def post(self, call: Callable[[], object]) -> None:
        """Have something called that tells its result by itself, and raises nothing: at half a future's cost.

        Args:
            call: not equal to any other.
        """
        with self._lock:
            if self._is_shut:
                raise RuntimeError("the pool is shut down")
            self._calls.add(call)
            self._waiting.put(call)
        self._pool.grow()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            if not self._is_shut:
                self._is_shut = True
                self._waiting.put(None)
        if cancel_futures:
            for call in list(self._calls):
                if isinstance(call, _Call):
                    call.future.cancel()
        if wait:
            self._pool.join()

    def _turn(self) -> bool:
        began = time.monotonic()
        call = self._waiting.get()
        self._controller.idle(time.monotonic() - began)
        if call is None:
            self._waiting.put(None)  # for the next thread
            return True
        try:
            call()
        finally:
            self._calls.discard(call)
        return False


class Bunches:
    """Calls go on to a pool many at a time: a server does so with less work than it does them one by one.

    Args:
        coming: whether more calls are about to come; if not, none waits.
    """

    def __init__(self, pool: SizedExecutor, coming: Callable[[], bool]) -> None:
        self._pool = pool
        self._coming = coming
        self._lock = threading.Lock()
        self._held: list[Callable[[], object]] = []
        self._timer: threading.Timer | None = None

    def post(self, call: Callable[[], object]) -> None:
        """As `SizedExecutor.post`, at most `LONGEST_WAIT` seconds later."""
        with self._lock:
            self._held.append(call)
            if len(self._held) < min(BUNCH, self._pool.size // 2) and self._coming():
                if not self._timer:
                    self._timer = threading.Timer(LONGEST_WAIT, self._release)
                    self._timer.daemon = True
                    self._timer.start()
                return
        self._release()

    def _release(self) -> None:
        with self._lock:
            calls, self._held = self._held, []
            if self._timer:
                self._timer.cancel()
                self._timer = None
        for call in calls:
            self._pool.post(call)


class _Call(Generic[T]):
    """A call whose result a future tells."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self.future: Future[T] = Future()

    def __call__(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self._function())
        except BaseException as error:
            self.future.set_exception(error)
