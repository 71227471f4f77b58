"""A node for one run on this machine: one process, one task at a time, reached through a socket in a folder.

When it dies, another one takes its place, and the item in progress has cost an attempt. The folder is its owner's
alone, so no other user of the machine can send it tasks, as with a port they could.
"""

from __future__ import annotations

import os
import signal
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING

from imageloom.worker.process import bound_memory, die_with_parent, die_with_starter

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from imageloom.engines.nodes.node import Arrived, Ended
    from imageloom.model import Result, Task
    from imageloom.worker.guard import Guard

GRACE = 5.0
"""Seconds for a call that is under way when the node is to leave."""


def address_in(folder: str, pid: int) -> str:
    return f"unix:{folder}/{pid}"


_PROGRESS = struct.Struct("qq")


class ProgressFile:
    """A file in which a node notes the item in progress: when it dies, results may still be unsent."""

    def __init__(self, folder: str) -> None:
        self._file = os.open(_progress_path(folder, os.getpid()), os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(self._file, _PROGRESS.pack(-1, 0), 0)
        self._thread = ThreadPoolExecutor(1, "thread")

    def run(self, task: Task, ended: Ended) -> Iterator[Result | None]:
        """Do a task in a thread of its own: its results do not wait for an item that takes long."""
        from imageloom.engines.nodes.node import in_order

        arrived: Arrived = SimpleQueue()
        wanted = threading.Event()
        wanted.set()
        self._thread.submit(self._perform, task, arrived, wanted)
        try:
            yield from in_order(arrived, len(task.work))
        finally:
            wanted.clear()

    def _perform(self, task: Task, arrived: Arrived, wanted: threading.Event) -> None:
        from imageloom.worker.perform import results

        try:
            os.pwrite(self._file, _PROGRESS.pack(task.id, 0), 0)
            for place, result in enumerate(results(task)):
                os.pwrite(self._file, _PROGRESS.pack(task.id, place + 1), 0)
                arrived.put((place, result))
                if not wanted.is_set():
                    return
        finally:
            arrived.put(None)


def completed_items(folder: str, pid: int, task: int) -> int | None:
    """How many items of a task a node had done when it died; None where it had not begun the task."""
    try:
        with open(_progress_path(folder, pid), "rb") as file:
            number, done = _PROGRESS.unpack(file.read(_PROGRESS.size))
    except (OSError, struct.error):
        return None
    return int(done) if number == task else None


def _progress_path(folder: str, pid: int) -> str:
    return f"{folder}/{pid}.progress"


def serve(folder: str, pipe: Connection, memory: int, guard: Guard) -> None:
    """Do tasks until SIGTERM.

    Args:
        pipe: told when the node can be called; its end says that the process has ended.
        memory: bytes that the process may take for data beyond what it has; 0 for no bound.
        guard: the bounds of what it does.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's: it finishes what is in hand
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    die_with_parent()
    die_with_starter()
    # gRPC is loaded here, not above: the server that processes are forked from must never have it.
    from imageloom.engines.nodes.config import Credentials, NodeConfig
    from imageloom.engines.nodes.node import WAITING_CALLS, Node
    from imageloom.engines.nodes.rpc import NODE, Service
    from imageloom.worker.perform import configure_process

    if memory:
        bound_memory(memory)
    configure_process()
    node = Node(ProgressFile(folder).run, NodeConfig(limit=1), guard)
    service = Service(node, NODE, address_in(folder, os.getpid()), Credentials(), WAITING_CALLS)
    pipe.send_bytes(b"ready")
    signal.sigwait([signal.SIGTERM])
    node.leave()
    service.close(GRACE)
