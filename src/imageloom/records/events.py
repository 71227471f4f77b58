"""Events of a run. Progress, logs, the report and health metrics are listeners of these events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from imageloom.model import Item, Outcome, Plain, Result, Task

SkipReason = Literal["done before", "output exists", "not failed before", "changed meanwhile", "gone"]
"""Why nothing needs to be done for an item."""


class Began(Plain, frozen=True):
    """A run has started."""

    job: int
    """The number of the job in the ledger."""
    source: str = ""
    """Address of the source, as in tasks; empty if it is not known."""
    sink: str = ""
    """Address of the sink; empty if it is not known."""


class Planned(Plain, frozen=True):
    """An item is planned and waits to be submitted."""

    item: Item
    """The item."""
    names: tuple[str, ...]
    """Names of its outputs, relative to the sink."""


class Started(Plain, frozen=True):
    """A task was submitted to the engine."""

    task: int
    """Number of the task in this run."""
    items: int
    """Number of its items."""
    pixels: int
    """Number of pixels of its items together."""


class Collected(Plain, frozen=True):
    """The outcome of a task was collected. Events for its items follow."""

    task: Task
    """The task."""
    outcome: Outcome
    """The outcome without the results that were already collected."""
    is_last: bool = True
    """False for results of a task that is still running."""


class Advanced(Plain, frozen=True):
    """A tile of a large image is done."""

    key: str
    """The image's item."""
    done: int
    """Number of tiles that are done, of the current step over the image."""
    total: int
    """Number of tiles of the current step."""
    stage: int
    """Number of the current step, from 1: each step is one pass over the tiles, or the encoding of an output."""
    stages: int
    """Number of steps."""
    width: int = 0
    """Width of what the step makes, in pixels; 0 if it is not known."""
    height: int = 0
    """Its height in pixels; 0 if it is not known."""

    @property
    def share(self) -> float:
        """Share of the work that is done, from 0 to 1, if all steps take equally long."""
        return (self.stage - 1 + self.done / self.total) / self.stages


class Done(Plain, frozen=True):
    """An item's outputs are published."""

    result: Result
    """The result of the attempt."""
    attempt: int
    """Number of the attempt, from 1."""
    worker: str
    """Name of the worker."""
    waited: float = 0.0
    """Seconds since the item's file was complete, for items of `watch`; otherwise 0."""


class Failed(Plain, frozen=True):
    """An item has failed for good."""

    result: Result
    """The result of the last attempt, with the failure."""
    attempt: int
    """Number of the attempt, from 1."""
    worker: str
    """Name of the worker."""


class Retried(Plain, frozen=True):
    """An attempt at an item failed; a retry follows after a back-off."""

    result: Result
    """The result of the attempt, with the failure."""
    attempt: int
    """Number of the attempt, from 1."""
    worker: str
    """Name of the worker."""
    pause: float
    """The back-off in seconds."""


class Skipped(Plain, frozen=True):
    """An item is skipped: nothing needs to be done for it."""

    item: Item
    """The item."""
    reason: SkipReason
    """Why it is skipped."""


class Pruned(Plain, frozen=True):
    """An output whose input is gone was removed."""

    name: str
    """Name of the output, relative to the sink."""
    key: str
    """The item that it was made from."""
    kept: str
    """Why it was not removed; empty if it was."""


Event = Began | Advanced | Planned | Started | Collected | Done | Failed | Retried | Skipped | Pruned
"""All events of a run."""
Listener = Callable[[Event], None]
"""Is called with each event."""
