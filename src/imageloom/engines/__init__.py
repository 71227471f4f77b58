"""Engines: they run tasks somewhere, one file for each technology, loaded when it is named."""

from __future__ import annotations

import importlib
from concurrent.futures import Future
from typing import Protocol

from imageloom.errors import UsageError
from imageloom.model import Outcome, Plain, Task

ENGINES: dict[str, str] = {
    "serial": "imageloom.engines.serial:Serial",
    "threads": "imageloom.engines.threads:Threads",
    "processes": "imageloom.engines.processes:Processes",
}


class Settings(Plain, frozen=True):
    """How an engine is to run. Each one takes from it what it has use for."""

    jobs: int = 1
    """Workers."""
    threads: int = 1
    """Threads in each worker process."""
    timeout: float = 600.0
    """Seconds that one item may take before its worker is ended."""
    memory: int = 0
    """Bytes that one worker may take for data; 0 for no bound."""
    in_flight: int = 0
    """Tasks under way together, of which as many as there are workers work on pixels while the others wait for
    a store; 0 for as many as there are workers."""


class Engine(Protocol):
    """Runs tasks.

    A failing item is data in the outcome. A future raises only `WorkerLost` (a worker died with the task) or
    what is a bug.
    """

    @property
    def capacity(self) -> int:
        """How many tasks run at the same time; it may change."""

    def submit(self, task: Task) -> Future[Outcome]:
        """Take a task on. Never blocks for long, but for the serial engine, which does it at once."""

    def close(self) -> None:
        """Let go of all that the engine holds; what has not begun is cancelled."""


def open_engine(name: str, settings: Settings) -> Engine:
    """The engine of that name.

    Raises:
        UsageError: there is none; the message lists the known ones.
    """
    if name not in ENGINES:
        raise UsageError(f"there is no engine {name!r}; there are: {', '.join(ENGINES)}")
    module, _, factory = ENGINES[name].partition(":")
    engine: Engine = getattr(importlib.import_module(module), factory)(settings)
    return engine
