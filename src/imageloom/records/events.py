"""What happens in a run, as it happens: progress, logs, the report and the live page listen to these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from imageloom.model import Item, Outcome, Plain, Result, Task

SkipReason = Literal["done before", "output exists", "not failed before", "changed meanwhile", "gone"]


class Began(Plain, frozen=True):
    """A run has begun."""

    job: int
    """Its number in the ledger."""


class Planned(Plain, frozen=True):
    """An item is planned and waits for its turn."""

    item: Item
    names: tuple[str, ...]


class Started(Plain, frozen=True):
    """A task was handed to the engine."""

    task: int
    items: int
    pixels: int


class Collected(Plain, frozen=True):
    """A task's outcome is in; what becomes of its items is told next."""

    task: Task
    outcome: Outcome
    """Without the results that were collected before."""
    is_last: bool = True
    """False for results of a task that still runs."""


class Done(Plain, frozen=True):
    """An item's outputs are published."""

    result: Result
    attempt: int
    worker: str
    waited: float = 0.0
    """Seconds since the item had come as a whole, where it came while its source was watched."""


class Failed(Plain, frozen=True):
    """An item is given up on."""

    result: Result
    attempt: int
    worker: str


class Retried(Plain, frozen=True):
    """An attempt at an item failed; another one follows after a pause."""

    result: Result
    attempt: int
    worker: str
    pause: float
    """Seconds."""


class Skipped(Plain, frozen=True):
    """Nothing is to be done for an item."""

    item: Item
    reason: SkipReason


Event = Began | Planned | Started | Collected | Done | Failed | Retried | Skipped
Listener = Callable[[Event], None]
