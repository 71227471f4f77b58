"""A worker process: tasks come in through a pipe, each item's result goes out as soon as it is there."""

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
"""Made once, in the fork server: a worker that takes a dead one's place is at work at once."""

_starting = threading.Lock()


def start(context: ForkServerContext, run: Callable[..., None], *args: object) -> ForkServerProcess:
    """A process of the fork server's that runs a function, with this process's environment.

    It does not import the program's main module, which it has no use for: a script without a guard would begin
    again in each worker, and one that imports much would make each of them wait.
    """
    main = sys.modules["__main__"]
    process = context.Process(target=_run, args=(dict(os.environ), run, *args), daemon=True)
    with _starting:  # of two at once, one would put the other's back
        spec, main.__spec__ = main.__spec__, ModuleSpec("__main__", None)  # by this name it is left alone
        try:
            process.start()
        finally:
            main.__spec__ = spec
    return process


def _run(environment: dict[str, str], run: Callable[..., None], *args: object) -> None:
    """In the process: the fork server has the variables of its own start."""
    os.environ.clear()
    os.environ.update(environment)
    run(*args)


def serve(pipe: Connection, threads: int, memory: int, in_flight: int) -> None:
    """Run tasks until the pipe's other end is closed.

    Two numbers that come in place of a task are those of a delivery and of the items of it that are still wanted.

    Args:
        threads: how many tasks work on pixels at the same time.
        memory: bytes that this process may take for data beyond what it has; 0 for no bound.
        in_flight: how many tasks are under way at the same time, at the most.
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

    # The end of the pipe, in either direction, says that the engine has let go of this worker.
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
    """Leave Ctrl-C to the starter, which finishes what is in hand; end with it; take no more memory than that.

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
    """Have the kernel end this process with its parent, where the kernel can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with_starter() -> None:
    """End this process with the one that asked the fork server for it.

    The fork server outlives that one as long as there are processes that it has started.
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
