"""Engines: they run tasks somewhere, one file for each technology, loaded when it is named."""

from __future__ import annotations

import importlib
from concurrent.futures import Future
from typing import Protocol

from imageloom.errors import UsageError
from imageloom.model import Outcome, Task

ENGINES: dict[str, str] = {
    "serial": "imageloom.engines.serial:Serial",
    "threads": "imageloom.engines.threads:Threads",
}


class Engine(Protocol):
    """Runs tasks.

    A failing item is data in the outcome. A future raises only `WorkerLost` (a worker died with the task) or
    what is a bug.
    """

    capacity: int
    """How many tasks run at the same time."""

    def submit(self, task: Task) -> Future[Outcome]:
        """Take a task on. Never blocks for long, but for the serial engine, which does it at once."""

    def close(self) -> None:
        """Let go of all that the engine holds; what has not begun is cancelled."""


def open_engine(name: str, jobs: int) -> Engine:
    """The engine of that name with `jobs` workers.

    Raises:
        UsageError: there is none; the message lists the known ones.
    """
    if name not in ENGINES:
        raise UsageError(f"there is no engine {name!r}; there are: {', '.join(ENGINES)}")
    module, _, factory = ENGINES[name].partition(":")
    engine: Engine = getattr(importlib.import_module(module), factory)(jobs)
    return engine
