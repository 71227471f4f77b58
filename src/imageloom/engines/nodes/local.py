"""A node for one run on this machine: one process, one task at a time, reached through a socket in a folder.

It is a fleet's: when it dies, another one takes its place, and the item that it had in hand has cost an attempt.
The folder is its owner's alone, so no other user of the machine can send it tasks, as with a port they could.
"""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from imageloom.worker.process import bound_memory, die_with_parent, die_with_starter

if TYPE_CHECKING:
    from imageloom.model import Result, Task
    from imageloom.worker.guard import Guard

GRACE = 5.0
"""Seconds for a call that is under way when the node is to leave."""


def address_in(folder: str, pid: int) -> str:
    return f"unix:{folder}/{pid}"


_MARK = struct.Struct("qq")


class Marks:
    """Where a node notes which item it has in hand, for those who outlive it: results may still be unsent."""

    def __init__(self, folder: str) -> None:
        self._file = os.open(_marks_of(folder, os.getpid()), os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(self._file, _MARK.pack(-1, 0), 0)

    def run(self, task: Task) -> Iterator[Result]:
        from imageloom.worker.perform import results

        os.pwrite(self._file, _MARK.pack(task.id, 0), 0)
        for done, result in enumerate(results(task), 1):
            os.pwrite(self._file, _MARK.pack(task.id, done), 0)
            yield result


def done_by(folder: str, pid: int, task: int) -> int:
    """How many items of a task a node had done when it died."""
    try:
        with open(_marks_of(folder, pid), "rb") as file:
            number, done = _MARK.unpack(file.read(_MARK.size))
    except (OSError, struct.error):
        return 0
    return int(done) if number == task else 0


def _marks_of(folder: str, pid: int) -> str:
    return f"{folder}/{pid}.marks"


def serve(folder: str, memory: int, guard: Guard) -> None:
    """Do tasks until SIGTERM.

    Args:
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

    if memory:
        bound_memory(memory)
    node = Node(Marks(folder).run, NodeConfig(limit=1), guard)
    service = Service(node, NODE, address_in(folder, os.getpid()), Credentials(), WAITING_CALLS)
    signal.sigwait([signal.SIGTERM])
    node.leave()
    service.close(GRACE)
