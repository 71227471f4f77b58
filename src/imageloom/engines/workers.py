"""Worker processes of engines whose workers connect to the driver or to a broker."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

from imageloom.engines import worker_function
from imageloom.errors import ImageloomError
from imageloom.model import Result, Task
from imageloom.records.faults import failure_of
from imageloom.system.announcing import show_states
from imageloom.worker.guard import Guard
from imageloom.worker.perform import results
from imageloom.worker.process import become_worker
from imageloom.worker.settings import WorkerSettings


def work(engine: str, settings: WorkerSettings, *more: object) -> None:
    """Run as a worker of an engine until the engine releases it, or until SIGTERM.

    The process belongs to a fleet. If it cannot work, it exits with the error's exit code.

    Args:
        more: further arguments of the engine's function, if the engine starts the worker.
    """
    leaving = threading.Event()
    become_worker(settings.memory)
    signal.signal(signal.SIGTERM, lambda number, frame: leaving.set())
    try:
        worker_function(engine)(settings, leaving, *more)
    except ImageloomError as error:
        logging.getLogger(__name__).error("imageloom worker %d: %s", os.getpid(), error)
        sys.exit(error.exit_code)


def work_apart(engine: str, settings: WorkerSettings) -> None:
    """Like `work`, for a worker that `imageloom worker` has started: it logs what it does and waits for."""
    show_states()
    work(engine, settings)


def work_and_report(line: Connection, engine: str, settings: WorkerSettings) -> None:
    """Like `work_apart`, and report the outcome and the bytes of each item to the starter, through a pipe."""
    _lines.append(line)
    work_apart(engine, settings)


_lines: list[Connection] = []


def _report(result: Result) -> None:
    outcome = "failed" if result.failure else "done"
    size = sum(written.size for written in result.written)
    for line in _lines:
        with contextlib.suppress(OSError):  # the pipe may be full if nobody reads it
            line.send_bytes(f"{outcome} {size}".encode())


def guarded(task: Task, guard: Guard) -> Iterator[Result]:
    """Yield the results of a task within the limits of a guard. If the task cannot begin, each item fails."""
    done, began = 0, time.time()
    try:
        for result in results(guard.admitted(task)):
            _report(result)
            yield result
            done += 1
    except Exception as error:
        for one in task.work[done:]:
            failed = Result(one.item.key, failure=failure_of(one.item.key, error), started=began)
            _report(failed)
            yield failed
