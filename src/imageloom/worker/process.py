"""A worker process: it receives tasks through a pipe, and sends the result of each item at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import socket
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
from imageloom.system.exits import die_with_parent
from imageloom.system.printable import guard_stderr
from imageloom.worker import sandbox, zygote
from imageloom.worker.message import Message
from imageloom.worker.perform import NO_BOUND, Turn, results, worker_name
from imageloom.worker.setup import bound_memory

_MESSAGES: msgspec.msgpack.Decoder[Task | tuple[int, int]] = msgspec.msgpack.Decoder(Task | tuple[int, int])
"""Created once, in the fork server, so that a replacement worker starts quickly."""

_starting = threading.Lock()


def start(
    context: ForkServerContext, run: Callable[..., None], *args: object, sandboxed: bool = False
) -> ForkServerProcess:
    """Start a process from the fork server. It runs a function with this process's environment variables.

    The process does not import the program's main module: a script without `if __name__ == "__main__"` would run
    again in each worker, and its imports would slow down each start.

    Args:
        sandboxed: start a second process, which forks the decoding processes of the first one.
    """
    if not sandboxed:
        return _start(context, _run, None, dict(os.environ), run, *args)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        _start(context, zygote.serve, theirs)  # it gets no environment variables, which may have credentials
        return _start(context, _run, ours, dict(os.environ), run, *args)


def _start(context: ForkServerContext, target: Callable[..., None], *args: object) -> ForkServerProcess:
    main = sys.modules["__main__"]
    process = context.Process(target=target, args=args, daemon=True)
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


def _run(
    line: socket.socket | None, environment: dict[str, str], run: Callable[..., None], *args: object
) -> None:
    """Runs in the process: it replaces the fork server's environment variables, which are older, and fewer."""
    os.environ.clear()
    os.environ.update(environment)
    if line is not None:
        sandbox.children.use(line)
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
