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

from imageloom.engines.board import Message
from imageloom.model import Task
from imageloom.work import results, worker_name

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def serve(pipe: Connection, threads: int, memory: int) -> None:
    """Run tasks until the pipe's other end is closed.

    Args:
        threads: how many tasks run at the same time.
        memory: bytes that this process may take for data beyond what it has; 0 for no bound.
    """
    become_worker(memory)
    sending = threading.Lock()

    def run(task: Task) -> None:
        for place, result in enumerate(results(task)):
            with sending:
                pipe.send_bytes(msgspec.msgpack.encode(Message(task.id, place, worker_name(), result)))

    # The end of the pipe, in either direction, says that the engine has let go of this worker.
    with (
        contextlib.suppress(EOFError, OSError),
        ThreadPoolExecutor(threads, thread_name_prefix="thread") as pool,
    ):
        pipe.send_bytes(msgspec.msgpack.encode(Message()))
        while True:
            task = msgspec.msgpack.decode(pipe.recv_bytes(), type=Task)
            if threads == 1:
                run(task)
            else:
                pool.submit(run, task)


def become_worker(memory: int) -> None:
    """Leave Ctrl-C to the driver, which finishes what is in hand; end with it; take no more memory than that.

    Args:
        memory: as in `serve`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent()
    if memory:
        _bound_memory(memory)


def die_with_parent() -> None:
    """Have the kernel end this process with its parent, where the kernel can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _bound_memory(memory: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = memory + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))
