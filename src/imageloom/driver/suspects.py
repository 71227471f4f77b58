"""Suspects: items that were in progress when an earlier run ended abnormally. Each is processed alone, isolated.

In a separate process, a crash is the failure of that item only, and the item remains a suspect. A large image is
processed as a whole there, if there is enough memory. An item that can only be processed in this process, because
of its size or because of an operator of the main program, is quarantined after several such runs.
"""

from __future__ import annotations

from functools import cached_property

from msgspec.structs import replace

from imageloom.driver.batches import Ready
from imageloom.driver.isolation import foreign
from imageloom.engines import Engine, open_engine
from imageloom.errors import ItemTimeout, Quarantined, WorkerLost
from imageloom.model import Failure, Item, Job, Task
from imageloom.records.inprogress import MOST_RUNS, InProgress

CRASHES = tuple(error.__name__ for error in (WorkerLost, ItemTimeout, MemoryError))
"""Kinds of failures that end a process."""


class Suspects:
    """Handles the suspects of one run.

    Args:
        engine: the engine of the run; its settings are used for the separate processes too.
    """

    def __init__(self, job: Job, engine: Engine, notes: InProgress) -> None:
        self._job = job
        self._engine = engine
        self._notes = notes
        self._alone: Engine | None = None
        self._crash_here = engine.capabilities.shares_memory

    @cached_property
    def _known_elsewhere(self) -> bool:
        """Whether other processes can load all operators."""
        return not foreign(self._job.recipe)

    def is_isolated(self, item: Item) -> bool:
        """Whether an item must be processed in a separate process, as a whole.

        Raises:
            Quarantined: several runs ended abnormally while processing the item.
        """
        if not self._notes.has_suspects:
            return False
        runs = self._notes.runs(item)
        if runs >= MOST_RUNS and not self._job.retry_failed:
            self._notes.keep(item)
            raise Quarantined(
                f"{runs} runs ended abnormally while processing it; --retry-failed tries it again"
            )
        return runs > 0 and self._known_elsewhere

    def apart(self, batch: list[Ready]) -> list[list[Ready]]:
        """Split a batch so that each suspect is a batch of its own."""
        if not self._notes.has_suspects:
            return [batch]
        found = [ready for ready in batch if self._notes.runs(ready.work.item)]
        others = [ready for ready in batch if ready not in found]
        return [*([others] if others else []), *([ready] for ready in found)]

    def engine_for(self, task: Task) -> Engine:
        """The engine that must run a task."""
        if not (
            self._crash_here
            and self._known_elsewhere
            and task.part is None
            and self._notes.runs(task.work[0].item)
        ):
            return self._engine
        if self._alone is None:
            settings = replace(self._engine.settings, jobs=1, threads=1, waits=False, in_flight=0)
            self._alone = open_engine("processes", settings)
        return self._alone

    def record_outcome(self, item: Item, failure: Failure | None) -> None:
        """Record the final outcome of an item: whether it remains a suspect."""
        if not self._notes.has_suspects:
            return
        if failure is not None and failure.kind in CRASHES:
            self._notes.keep(item)
        else:
            self._notes.clear(item)

    def close(self) -> None:
        if self._alone is not None:
            self._alone.close()
