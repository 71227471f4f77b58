"""An engine whose workers reach source and sink through a relay."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from msgspec.structs import replace

from imageloom.engines import Engine, submit
from imageloom.model import Outcome, Relay, Task
from imageloom.scheduling.results import ResultCallback
from imageloom.service.relay.uploads import Uploads

if TYPE_CHECKING:
    from imageloom.records.events import Listener


class RelayEngine(Engine):
    """Sends each task with the addresses of the relay.

    Args:
        engine: the engine that runs the tasks; the caller closes it.
        address: relay://HOST:PORT.
        relay: what workers need for the connection.
        uploads: told which outputs to expect.
    """

    def __init__(self, engine: Engine, address: str, relay: Relay, uploads: Uploads) -> None:
        self._engine, self.address, self._relay, self._uploads = engine, address, relay, uploads
        self.capabilities = replace(engine.capabilities, reports_results=True, shares_memory=False)
        self.settings = engine.settings
        self.listeners: Sequence[Listener] = engine.listeners
        self._sent: dict[tuple[str, int], Task] = {}
        """The tasks in flight as the engine got them, by job and number."""

    @property
    def missing(self) -> str:
        return self._engine.missing

    @property
    def capacity(self) -> int:
        return self._engine.capacity

    def lag(self) -> dict[str, int]:
        return self._engine.lag()

    def submit(self, task: Task, on_result: ResultCallback = lambda place, result: None) -> Future[Outcome]:
        source, sink = f"{self.address}/source", f"{self.address}/sink"
        sent = replace(task, source=source, sink=sink, relay=self._relay)
        self._uploads.expect(sent)
        self._sent[task.job, task.id] = sent
        future = submit(self._engine, sent, on_result)
        future.add_done_callback(lambda done: self._forget(sent))
        return future

    def _forget(self, task: Task) -> None:
        self._sent.pop((task.job, task.id), None)
        self._uploads.forget(task)

    def cut_short(self, task: Task) -> None:
        if sent := self._sent.get((task.job, task.id)):
            self._engine.cut_short(sent)

    def close(self) -> None:
        """Do nothing: who opened the engine closes it."""
