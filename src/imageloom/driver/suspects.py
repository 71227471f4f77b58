"""The items that were in hand when an earlier run ended: each is done alone, in a process of its own.

There a crash is that item's failure, and it stays a suspect. A large image is done whole in that process, if
there is memory for it. An item that can only be done in this process, because of its size or of an operator that
others do not know, is given up when it has ended several runs.
"""

from __future__ import annotations

from functools import cached_property

from msgspec.structs import replace

from imageloom import operators
from imageloom.driver.batches import Ready
from imageloom.engines import Engine, open_engine
from imageloom.errors import ItemTimeout, Quarantined, WorkerLost
from imageloom.model import Failure, Item, Job, Task
from imageloom.records.inhand import MOST_RUNS, InHand

CRASHES = tuple(error.__name__ for error in (WorkerLost, ItemTimeout, MemoryError))
"""Kinds of failure that are the end of a process, or would have been."""


class Suspects:
    """What becomes of the suspects of one run.

    Args:
        engine: of the run; its settings are those of the processes too.
    """

    def __init__(self, job: Job, engine: Engine, notes: InHand) -> None:
        self._job = job
        self._engine = engine
        self._notes = notes
        self._alone: Engine | None = None
        self._crash_here = engine.capabilities.shares_memory

    @cached_property
    def _known_elsewhere(self) -> bool:
        """Other processes can load all operators: they are ours, or of a file that was given."""
        steps = (step for output in self._job.recipe.outputs for step in output.steps)
        return all(operators.get(step.name).function.__module__.startswith("imageloom") for step in steps)

    def is_isolated(self, item: Item) -> bool:
        """Whether an item is to be done in another process than this one, as a whole.

        Raises:
            Quarantined: it has ended several runs, in which there was no such process for it.
        """
        runs = self._notes.runs(item)
        if runs >= MOST_RUNS and not self._job.retry_failed:
            self._notes.keep(item)
            raise Quarantined(f"{runs} runs have ended with it in hand (--retry-failed tries it again)")
        return runs > 0 and self._known_elsewhere

    def apart(self, batch: list[Ready]) -> list[list[Ready]]:
        """A batch in pieces, each suspect alone."""
        if not self._notes.has_suspects:
            return [batch]
        found = [ready for ready in batch if self._notes.runs(ready.work.item)]
        others = [ready for ready in batch if ready not in found]
        return [*([others] if others else []), *([ready] for ready in found)]

    def engine_for(self, task: Task) -> Engine:
        """Where to do a task."""
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

    def settle(self, item: Item, failure: Failure | None) -> None:
        """Take note of what has come of an item in the end."""
        if not self._notes.has_suspects:
            return
        if failure is not None and failure.kind in CRASHES:
            self._notes.keep(item)
        else:
            self._notes.clear(item)

    def close(self) -> None:
        if self._alone is not None:
            self._alone.close()
