"""What a scheduler is to do: bounds and habits that differ from one engine to another. Plain data."""

from __future__ import annotations

from typing import Literal

from imageloom.model import Plain


class Rules(Plain, frozen=True):
    """The rules of one scheduler."""

    timeout: float = 600.0
    """Seconds that one item may take; 0 for no bound."""
    jobs: int = 0
    """Workers that the scheduler keeps alive by `Start`; 0 where they come by themselves."""
    ends: Literal["worker", "delivery"] = "worker"
    """What is ended with an item that takes too long."""
    isolation: Literal["none", "worker", "engine"] = "worker"
    """Where an item is alone after a failed attempt: on its worker; in the whole engine, where one worker's death
    ends the others too; nowhere, where it is not the scheduler that chooses the worker."""
    splits: bool = False
    """Each item of a task is a delivery of its own."""
    cuts: bool = True
    """A worker can give up what it has not begun of a delivery: others do what waits behind a slow item."""
    ends_liars: bool = True
    """A worker that sends a result that was not due is ended. False where others can write in its name."""
    returns: int = 6
    """How often a task may come back without a result and without a fault; then an item is charged."""
    refusals: int = 0
    """After so many refusals a task must be accepted, or fails; 0 for no bound."""
    falls_back: bool = True
    """Then it must be accepted."""
    copies: bool = False
    """What a slow worker does is given to an idle one too, when nothing else waits. The first result counts."""
    brief: float = 0.0
    """Seconds; a worker whose deliveries take less, on average, may hold one more than it works on: the way there
    would be felt. 0 for none."""
