"""A node for one run on this machine: one process, one task at a time, with a unix socket in a folder.

If it dies, it is replaced, and its item in progress is charged. The folder is private, so other users of the
machine cannot send it tasks.
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

from imageloom.system.exits import die_with_parent
from imageloom.worker.process import die_with_starter
from imageloom.worker.setup import bound_memory

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from imageloom.engines.nodes.node import Arrived, Ended
    from imageloom.model import Result, Task
    from imageloom.worker.guard import Guard

GRACE = 5.0
"""Time in seconds for a call in progress when the node shuts down."""


def address_in(folder: str, pid: int) -> str:
    return f"unix:{folder}/{pid}"


_PROGRESS = struct.Struct("qq")


class ProgressFile:
    """A file in which a node records the item in progress, because results may be unsent when it dies."""

    def __init__(self, folder: str) -> None:
        self._file = os.open(_progress_path(folder, os.getpid()), os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(self._file, _PROGRESS.pack(-1, 0), 0)
        self._thread = ThreadPoolExecutor(1, "thread")

    def run(self, task: Task, ended: Ended) -> Iterator[Result | None]:
        """Run a task in a separate thread, so that results are not delayed by a slow item."""
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
    """Number of items of a task that a dead node had completed; None if it had not begun the task."""
    try:
        with open(_progress_path(folder, pid), "rb") as file:
            number, done = _PROGRESS.unpack(file.read(_PROGRESS.size))
    except (OSError, struct.error):
        return None
    return int(done) if number == task else None


def _progress_path(folder: str, pid: int) -> str:
    return f"{folder}/{pid}.progress"


def serve(folder: str, pipe: Connection, memory: int, guard: Guard) -> None:
    """Run tasks until SIGTERM.

    Args:
        pipe: gets a message when the node is ready. Its end means that the process has ended.
        memory: maximum memory for data in bytes, beyond what the process uses already; 0 for no limit.
        guard: the limits of its tasks.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver handles Ctrl-C: it finishes what is in progress
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    die_with_parent()
    die_with_starter()
    # gRPC is imported here and not above: the fork server must not load it.
    from imageloom.engines.nodes.config import Credentials, NodeConfig
    from imageloom.engines.nodes.node import WAITING_CALLS, Node
    from imageloom.engines.nodes.rpc import NODE, Service
    from imageloom.worker.setup import configure_process

    if memory:
        bound_memory(memory)
    configure_process()
    node = Node(ProgressFile(folder).run, NodeConfig(limit=1), guard)
    service = Service(node, NODE, address_in(folder, os.getpid()), Credentials(), WAITING_CALLS)
    pipe.send_bytes(b"ready")
    signal.sigwait([signal.SIGTERM])
    node.leave()
    service.close(GRACE)
