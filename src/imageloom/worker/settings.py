"""Settings of worker processes."""

from __future__ import annotations

from imageloom.model import Plain
from imageloom.worker.guard import Guard


class WorkerSettings(Plain, frozen=True):
    """Settings of a worker process that connects to a driver or a broker."""

    connect: str
    """Address of the server or broker that sends the tasks."""
    threads: int = 1
    """Number of tasks at the same time."""
    memory: int = 0
    """Maximum memory for data of the process, in bytes; 0 for no limit."""
    guard: Guard = Guard()
    keys: str = ""
    """Path of the file with the keys of this worker."""
    once: bool = False
    """Exit when the run has ended, instead of waiting for the next one."""
    role: str = "all"
    """Kind of tasks that it takes, for engines that distinguish them: worker, assembler or all."""
