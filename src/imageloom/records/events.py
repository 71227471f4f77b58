"""Events of a run. Progress, logs, the report and health metrics are listeners of these events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from imageloom.model import Item, Outcome, Plain, Result, Task

SkipReason = Literal["done before", "output exists", "not failed before", "changed meanwhile", "gone"]


class Began(Plain, frozen=True):
    """A run has started."""

    job: int
    """The number of the job in the ledger."""
    source: str = ""
    """Address of the source, as in tasks; empty if it is not known."""
    sink: str = ""


class Planned(Plain, frozen=True):
    """An item is planned and waits to be submitted."""

    item: Item
    names: tuple[str, ...]


class Started(Plain, frozen=True):
    """A task was submitted to the engine."""

    task: int
    items: int
    pixels: int


class Collected(Plain, frozen=True):
    """The outcome of a task was collected. Events for its items follow."""

    task: Task
    outcome: Outcome
    """The outcome without the results that were already collected."""
    is_last: bool = True
    """False for results of a task that is still running."""


class Advanced(Plain, frozen=True):
    """A tile of a large image is done."""

    key: str
    done: int
    """Number of tiles that are done, of the current step over the image."""
    total: int
    stage: int
    """Number of the current step, from 1: each step is one pass over the tiles, or the encoding of an output."""
    stages: int
    width: int = 0
    height: int = 0
    """Size of what the step makes, in pixels; 0 if it is not known."""

    @property
    def share(self) -> float:
        """Share of the work that is done, from 0 to 1, if all steps take equally long."""
        return (self.stage - 1 + self.done / self.total) / self.stages


class Done(Plain, frozen=True):
    """An item's outputs are published."""

    result: Result
    attempt: int
    worker: str
    waited: float = 0.0
    """Seconds since the item's file was complete, for items of `watch`; otherwise 0."""


class Failed(Plain, frozen=True):
    """An item has failed for good."""

    result: Result
    attempt: int
    worker: str


class Retried(Plain, frozen=True):
    """An attempt at an item failed; a retry follows after a back-off."""

    result: Result
    attempt: int
    worker: str
    pause: float
    """The back-off in seconds."""


class Skipped(Plain, frozen=True):
    """An item is skipped: nothing needs to be done for it."""

    item: Item
    reason: SkipReason


class Pruned(Plain, frozen=True):
    """An output whose input is gone was removed."""

    name: str
    key: str
    """The item that it was made from."""
    kept: str
    """Why it was not removed; empty if it was."""


Event = Began | Advanced | Planned | Started | Collected | Done | Failed | Retried | Skipped | Pruned
Listener = Callable[[Event], None]
