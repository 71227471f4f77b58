"""How a worker process is to run."""

from __future__ import annotations

from imageloom.model import Plain
from imageloom.worker.guard import Guard


class WorkerSettings(Plain, frozen=True):
    """How a worker process that serves an engine's driver is to run."""

    connect: str
    """Address of the server or broker that has the tasks."""
    threads: int = 1
    """Tasks at the same time."""
    memory: int = 0
    """Bytes that the process may take for data; 0 for no bound."""
    guard: Guard = Guard()
    keys: str = ""
    """Path of the file of keys that this side proves itself with."""
    once: bool = False
    """Leave when the driver is through, instead of waiting for the next one."""
    role: str = "all"
    """Which kinds of task it takes, where the engine tells them apart: worker, assembler, all."""
