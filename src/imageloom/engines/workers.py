"""The worker processes of engines whose workers connect to the driver or to a server."""

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
from imageloom.worker.guard import Guard
from imageloom.worker.perform import results
from imageloom.worker.process import become_worker
from imageloom.worker.settings import WorkerSettings


def work(engine: str, settings: WorkerSettings, *more: object) -> None:
    """Serve an engine's driver until it lets go of this worker, or SIGTERM asks it to leave.

    The process is a fleet's. It leaves with an error's exit code where it can be of no use.

    Args:
        more: for the engine's function, where the engine itself starts the worker.
    """
    leaving = threading.Event()
    become_worker(settings.memory)
    signal.signal(signal.SIGTERM, lambda number, frame: leaving.set())
    try:
        worker_function(engine)(settings, leaving, *more)
    except ImageloomError as error:
        logging.getLogger(__name__).error("imageloom worker %d: %s", os.getpid(), error)
        sys.exit(error.exit_code)


def work_and_report(line: Connection, engine: str, settings: WorkerSettings) -> None:
    """`work`, and say of each item on a line to the starter what came of it, and how many bytes."""
    _lines.append(line)
    work(engine, settings)


_lines: list[Connection] = []


def _report(result: Result) -> None:
    outcome = "failed" if result.failure else "done"
    size = sum(written.size for written in result.written)
    for line in _lines:
        with contextlib.suppress(OSError):  # it is full, for nobody listens: the work is what counts
            line.send_bytes(f"{outcome} {size}".encode())


def guarded(task: Task, guard: Guard) -> Iterator[Result]:
    """The results of a task that came from elsewhere: what cannot be begun here is a failure of each item."""
    done, began = 0, time.time()
    try:
        for result in results(guard.bounded(task)):
            _report(result)
            yield result
            done += 1
    except Exception as error:
        for one in task.work[done:]:
            failed = Result(one.item.key, failure=failure_of(one.item.key, error), started=began)
            _report(failed)
            yield failed
