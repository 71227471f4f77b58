"""Pools of threads whose size is set by a controller."""

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
"""Maximum number of calls that are passed on together. It is also at most half the number of threads."""
LONGEST_WAIT = 0.1
"""Maximum time that a call waits for others, in seconds."""


class SizedPool:
    """Threads that repeat one function. The controller sets their number.

    Args:
        turn: waits for one piece of work and does it. It returns True if the thread must end.
        controller: sets the size; it gets a record of each piece of work.
        name: prefix of the threads' names. Numbers of threads that have ended are used again.
        wanted: returns the number of threads that have work now. No more are started. None if it is unknown.
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
        """Start the missing threads."""
        if len(self._threads) < self._controller.size:
            with self._lock:
                self._grow()

    def abandon(self, thread: threading.Thread) -> None:
        """Replace a thread that does not come back. If it does, it ends."""
        with self._lock:
            self._threads.pop(thread, None)
        self.grow()

    def join(self) -> None:
        """Wait until all threads have ended, but for those that were abandoned."""
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
        thread = threading.current_thread()
        while not self._turn():
            if thread not in self._threads:
                return
            if len(self._threads) >= self._controller.size:  # a pool that is not full cannot measure its size
                self._controller.record()
            if len(self._threads) > self._controller.size:
                if self._has_shrunk():
                    return
            elif len(self._threads) < self._wanted():
                self.grow()
        with self._lock:
            self._ending = True
            self._threads.pop(thread, None)

    def _has_shrunk(self) -> bool:
        """Remove this thread if there are too many. Returns whether it must end."""
        with self._lock:
            too_many = len(self._threads) > self._controller.size
            if too_many:
                self._threads.pop(threading.current_thread(), None)
            return too_many


class SizedExecutor(Executor):
    """An executor whose number of threads is set by its controller, and is at most the number of calls."""

    def __init__(self, controller: Controller, name: str) -> None:
        self._controller = controller
        self._waiting: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_shut = False
        self._calls: set[Callable[[], object]] = set()
        """Calls that wait or are in progress."""
        self._pool = SizedPool(self._turn, controller, name, lambda: len(self._calls))

    @property
    def size(self) -> int:
        """Wanted number of threads."""
        return self._controller.size

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        call = _Call(partial(fn, *args, **kwargs))
        self.post(call)
        return call.future

    def post(self, call: Callable[[], object]) -> None:
        """Schedule a call without a future, at half the cost. It must not raise, and must report its own result.

        Args:
            call: must not be equal to another call.
        """
        with self._lock:
            if self._is_shut:
                raise RuntimeError("the pool is shut down")
            self._calls.add(call)
            self._waiting.put(call)
        self._pool.grow()

    def abandon(self, thread: threading.Thread) -> None:
        """Replace a thread whose call does not return."""
        self._pool.abandon(thread)

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
    """Passes calls to a pool in groups, because a server handles a group with less work than single calls.

    Args:
        coming: returns whether more calls are expected. If not, no call waits.
    """

    def __init__(self, pool: SizedExecutor, coming: Callable[[], bool]) -> None:
        self._pool = pool
        self._coming = coming
        self._lock = threading.Lock()
        self._held: list[Callable[[], object]] = []
        self._timer: threading.Timer | None = None

    def post(self, call: Callable[[], object]) -> None:
        """Like `SizedExecutor.post`, but delayed by at most `LONGEST_WAIT` seconds."""
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
    """A call whose result is set on a future."""

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
