"""The engine serial: runs tasks one after the other in the caller's thread. For debugging, and as the reference in
tests of other engines."""

from __future__ import annotations

from concurrent.futures import Future

from msgspec.structs import replace

from imageloom.engines import Capabilities, Engine, Settings
from imageloom.model import Outcome, Task
from imageloom.scheduling.results import ResultCallback
from imageloom.worker.perform import TaskName, perform
from imageloom.worker.sandbox import children


class Serial(Engine):
    capacity = 1
    capabilities = Capabilities(shares_memory=True, reports_results=True)

    def __init__(self, settings: Settings) -> None:
        """Not used: the caller's thread is the only worker."""
        self.settings = settings
        self._cut_short: set[TaskName] = set()
        children.open(self)
        if settings.sandbox.is_on:
            self.capabilities = replace(self.capabilities, ends_items=True)

    def submit(self, task: Task, on_result: ResultCallback | None = None) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        future.set_result(perform(task, on_result, self._cut_short))
        return future

    def cut_short(self, task: Task) -> None:
        self._cut_short.add((task.job, task.id))

    def close(self) -> None:
        children.close(self)
