"""A fleet: a fixed number of worker processes on this machine. A process that dies is replaced.

It is used by engines with a broker between the engine and its workers, and by `imageloom worker`. It starts the
processes, reports each death with its cause, and starts a replacement. It does not see their tasks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from typing import Any

from imageloom.scheduling.backoff import Backoff
from imageloom.scheduling.engine import GRACE
from imageloom.scheduling.inbox import start_thread
from imageloom.scheduling.scheduler import FIRST_BACKOFF, LONGEST_BACKOFF
from imageloom.system.exits import cause_of
from imageloom.worker.fork_server import warm_up
from imageloom.worker.process import start

Died = Callable[[int, str], None]
"""Called in the fleet's thread with the process id of a dead worker and the cause of its death."""

FINAL = (0, 2, 4)
"""Exit codes (see errors.py) of a worker that exited normally, or that cannot work and must not be restarted."""


class Fleet:
    """Processes that each run one function until it returns.

    Args:
        target: a function at the top level of a module, because a new interpreter imports it by its name.
        args: its arguments, as plain data.
        count: number of processes.
        died: called for each process that ends before `close`.
        left: called with the exit code of a process that exits with one of `FINAL`. It is not replaced.
            Without this argument, it counts as dead.
        preload: modules that the workers need. They are loaded once, for all workers.
        failed: called in the fleet's thread, with the reason, if workers can no longer be replaced.
        sandboxed: see `worker.process.start`.
    """

    def __init__(
        self,
        target: Callable[..., None],
        args: tuple[Any, ...],
        count: int,
        died: Died,
        left: Callable[[int], None] | None = None,
        preload: Iterable[str] = (),
        failed: Callable[[str], None] = lambda reason: None,
        sandboxed: bool = False,
    ) -> None:
        self._target, self._args, self._count = target, args, count
        self._died, self._left = died, left
        self._sandboxed = sandboxed
        self._context = warm_up(target.__module__, *preload)
        self._processes: dict[int, ForkServerProcess] = {}
        self._ready: set[int] = set()
        self.deaths = 0
        self._backoff = Backoff(FIRST_BACKOFF, LONGEST_BACKOFF)
        """Back-off for workers in a row that died before they were ready."""
        self._closing = self._closed = False
        self._wake_reader, self._wake_writer = os.pipe()
        for _ in range(count):
            self._start()
        self._thread = start_thread("fleet", self._watch, failed)

    @property
    def pids(self) -> list[int]:
        return list(self._processes)

    @property
    def is_complete(self) -> bool:
        """Whether all workers are running, and none was asked to exit."""
        return not self._closing and len(self._processes) >= self._count

    def mark_ready(self, pid: int) -> None:
        """Note that a worker has started to work. If it dies now, it is replaced without a pause."""
        self._ready.add(pid)
        self._backoff.succeed()

    def kill(self, pid: int) -> None:
        """Kill a worker. Does nothing if the process is not in the fleet."""
        if process := self._processes.get(pid):
            process.kill()

    def close(self, grace: float = GRACE) -> None:
        """Wait for the workers, which were asked to exit. Kill them after `grace` seconds."""
        if self._closed:
            return
        self._closed = True
        self._stop_watching()
        until = time.monotonic() + grace
        for process in self._processes.values():
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        self._processes.clear()
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    def drain(self, patience: float | None = None) -> None:
        """Send SIGTERM to the workers, so that they finish their tasks, and wait for their exit.

        Args:
            patience: time-out of the wait, in seconds; None for no time-out.
        """
        self._stop_watching()
        for process in self._processes.values():
            process.terminate()
        until = None if patience is None else time.monotonic() + patience
        for process in self._processes.values():
            process.join(None if until is None else max(0.0, until - time.monotonic()))

    def _stop_watching(self) -> None:
        if not self._closing:
            self._closing = True
            os.write(self._wake_writer, b".")
            self._thread.join()

    def _start(self) -> None:
        process = start(self._context, self._target, *self._args, sandboxed=self._sandboxed)
        assert process.pid is not None, "it has been started"
        self._processes[process.pid] = process

    def _watch(self) -> None:
        while not self._closing:
            while len(self._processes) < self._count and time.monotonic() >= self._backoff.until:
                self._start()
            missing = len(self._processes) < self._count
            patience = max(0.0, self._backoff.until - time.monotonic()) if missing else None
            sentinels = {process.sentinel: pid for pid, process in self._processes.items()}
            for ready in wait([self._wake_reader, *sentinels], patience):
                if ready in sentinels and not self._closing:
                    self._handle_exit(sentinels[ready])

    def _handle_exit(self, pid: int) -> None:
        process = self._processes.pop(pid)
        process.join()
        exitcode = process.exitcode
        process.close()
        if self._left and exitcode in FINAL:
            self._count -= 1
            self._left(exitcode)
            return
        self.deaths += 1
        if pid in self._ready:
            self._ready.discard(pid)
        else:
            self._backoff.fail(time.monotonic())
        self._died(pid, cause_of(exitcode))
