"""A worker process: it receives tasks through a pipe, and sends the result of each item at once."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import resource
import select
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess

import msgspec

from imageloom.model import Task
from imageloom.system.printable import guard_stderr
from imageloom.worker.message import Message
from imageloom.worker.perform import NO_BOUND, Turn, results, worker_name

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_MESSAGES: msgspec.msgpack.Decoder[Task | tuple[int, int]] = msgspec.msgpack.Decoder(Task | tuple[int, int])
"""Created once, in the fork server, so that a replacement worker starts quickly."""

_starting = threading.Lock()


def start(context: ForkServerContext, run: Callable[..., None], *args: object) -> ForkServerProcess:
    """Start a process from the fork server. It runs a function with this process's environment variables.

    The process does not import the program's main module: a script without `if __name__ == "__main__"` would run
    again in each worker, and its imports would slow down each start.
    """
    main = sys.modules["__main__"]
    process = context.Process(target=_run, args=(dict(os.environ), run, *args), daemon=True)
    with _starting:  # two threads at once would restore the wrong spec
        spec, main.__spec__ = (
            main.__spec__,
            ModuleSpec("__main__", None),
        )  # with this name, multiprocessing does not import it
        try:
            process.start()
        finally:
            main.__spec__ = spec
    return process


def _run(environment: dict[str, str], run: Callable[..., None], *args: object) -> None:
    """Runs in the process: it replaces the fork server's environment variables, which are older."""
    os.environ.clear()
    os.environ.update(environment)
    run(*args)


def serve(pipe: Connection, threads: int, memory: int, in_flight: int) -> None:
    """Run tasks until the other end of the pipe is closed.

    A message is a task, or a pair: the number of a delivery, and how many of its first items are still needed.

    Args:
        threads: number of tasks that process pixels at the same time.
        memory: maximum memory for data in bytes, beyond what the process uses already; 0 for no limit.
        in_flight: maximum number of tasks in progress at the same time.
    """
    become_worker(memory)
    sending = threading.Lock()
    computing: Turn = threading.BoundedSemaphore(threads) if in_flight > threads else NO_BOUND

    waiting: deque[Task] = deque()
    kept: dict[int, int] = {}
    poller = select.poll()
    poller.register(pipe.fileno(), select.POLLIN)

    def receive() -> None:
        message = _MESSAGES.decode(pipe.recv_bytes())
        if isinstance(message, tuple):
            kept[message[0]] = message[1]
        else:
            waiting.append(message)

    def run(task: Task) -> None:
        for place, result in enumerate(results(task, computing)):
            with sending:
                pipe.send_bytes(msgspec.msgpack.encode(Message(task.id, place, worker_name(), result)))
            while in_flight == 1 and place + 1 < len(task.work) and poller.poll(0):
                receive()
            if place + 1 >= kept.get(task.id, len(task.work)):
                break

    # The engine closes the pipe to end this worker: both reading and writing then fail.
    with (
        contextlib.suppress(EOFError, OSError),
        ThreadPoolExecutor(in_flight, thread_name_prefix="thread") as pool,
    ):
        pipe.send_bytes(msgspec.msgpack.encode(Message()))
        while True:
            while not waiting:
                receive()
            if in_flight == 1:
                run(waiting.popleft())
            else:
                pool.submit(run, waiting.popleft())


def become_worker(memory: int) -> None:
    """Configure this process as a worker.

    It ignores Ctrl-C, which its starter handles. It ends when its starter ends, and has a memory limit.

    Args:
        memory: as in `serve`.
    """
    guard_stderr()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent()
    die_with_starter()
    if memory:
        bound_memory(memory)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with_starter() -> None:
    """End this process when its starter ends, the process that asked the fork server for it.

    The fork server itself lives on as long as it has child processes.
    """
    starter = multiprocessing.parent_process()

    def wait() -> None:
        if starter is not None:
            starter.join()
            os._exit(1)

    threading.Thread(target=wait, name="starter", daemon=True).start()


def bound_memory(memory: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = memory + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))
