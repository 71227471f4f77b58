"""A worker process: tasks come in through a pipe, each item's result goes out as soon as it is there."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import msgspec

from imageloom.model import Plain, Result, Task
from imageloom.work import NO_BOUND, Turn, results, worker_name

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Message(Plain, frozen=True):
    """One item's result on its way to the engine; without one, the word that the worker is ready."""

    task: int = 0
    worker: str = ""
    result: Result | None = None


def serve(pipe: Connection, threads: int, memory: int, in_flight: int) -> None:
    """Run tasks until the pipe's other end is closed.

    Args:
        threads: how many tasks work on pixels at the same time.
        memory: bytes that this process may take for data beyond what it has; 0 for no bound.
        in_flight: how many tasks are under way at the same time.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's: it finishes what is in hand
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with_parent()
    if memory:
        _bound_memory(memory)
    sending = threading.Lock()
    computing: Turn = threading.BoundedSemaphore(threads) if in_flight > threads else NO_BOUND

    def run(task: Task) -> None:
        for result in results(task, computing):
            with sending:
                pipe.send_bytes(msgspec.msgpack.encode(Message(task.id, worker_name(), result)))

    # The end of the pipe, in either direction, says that the engine has let go of this worker.
    with (
        contextlib.suppress(EOFError, OSError),
        ThreadPoolExecutor(in_flight, thread_name_prefix="thread") as pool,
    ):
        pipe.send_bytes(msgspec.msgpack.encode(Message()))
        while True:
            task = msgspec.msgpack.decode(pipe.recv_bytes(), type=Task)
            if in_flight == 1:
                run(task)
            else:
                pool.submit(run, task)


def _die_with_parent() -> None:
    """Have the kernel end this process with its parent, where the kernel can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _bound_memory(memory: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = memory + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))
