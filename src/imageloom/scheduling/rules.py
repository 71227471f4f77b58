"""The settings of a scheduler, which differ between engines. Plain data."""

from __future__ import annotations

from typing import Literal

from imageloom.model import Plain


class Rules(Plain, frozen=True):
    """The settings of one scheduler."""

    timeout: float = 600.0
    """Time-out of one item, in seconds; 0 for none."""
    jobs: int = 0
    """Number of workers that the scheduler starts and replaces by `Start`; 0 if workers connect by themselves."""
    ends: Literal["worker", "delivery"] = "worker"
    """What is ended if an item exceeds its time-out: the worker, or the delivery only."""
    isolation: Literal["none", "worker", "engine"] = "worker"
    """Where a suspect runs alone. "worker": on its worker. "engine": in the whole engine, because the death of one
    worker ends the others too. "none": nowhere, because the scheduler does not choose the worker."""
    splits: bool = False
    """Whether each item of a task is a separate delivery."""
    cuts: bool = True
    """Whether a worker can drop the items of a delivery that it has not begun. Then other workers process what
    waits behind a slow item."""
    ends_liars: bool = True
    """Whether a worker that sends an unexpected result is ended. False if others can send messages in its name."""
    returns: int = 6
    """How often workers may return a task without a result and without a failure. After that, an item is
    charged."""
    refusals: int = 0
    """Maximum number of refusals of a task, 0 for no limit. After that, it must be accepted, or it fails."""
    falls_back: bool = True
    """Whether a task must be accepted after the maximum number of refusals; otherwise it fails."""
    copies: bool = False
    """Whether an idle worker gets a copy of a straggler if nothing else waits. The first result counts."""
    brief: float = 0.0
    """A worker whose deliveries take less than this on average, in seconds, may have one more delivery than it has
    slots, because the transfer time would matter. 0 to disable this."""
