"""The scheduler's input and output: events from transports, and commands to them.

Plain data without behaviour. The transport defines what a worker is (a process, a node, an MPI rank, a consumer
of a stream), and names it. A delivery is a task, or some of its items, sent once to one worker. Its number is
unique, and it is the `id` of the task that is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from imageloom.model import Failure, Outcome, Result, Task

# Events, reported by a transport.


@dataclass(frozen=True, slots=True)
class Joined:
    """A worker has joined, or its number of slots has changed."""

    worker: str
    slots: int = 1
    """Number of deliveries that it processes at the same time. 0 if it must not get any, because it is starting or
    shutting down."""
    ahead: int = 0
    """Number of further deliveries that may wait on it, so that it is never idle between two deliveries."""
    load: float = 0.0
    """Load that the worker reports, from 0 to 1. Used for placement only."""
    is_ready: bool = True
    """False for a process that is still starting. If it dies now, no item is charged."""
    reports_begin: bool = False
    """Whether the transport reliably sends `Begun`: the time-out starts with it. Otherwise the first deliveries,
    one for each slot, count as begun."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A worker has begun a delivery, or has resumed a paused one. Its time-out starts now."""

    worker: str
    delivery: int
    ago: float = 0.0
    """Seconds since this event."""


@dataclass(frozen=True, slots=True)
class Paused:
    """A worker has paused a delivery until it begins it again. Meanwhile it has no time-out, and a death is not
    charged to it."""

    worker: str
    delivery: int


@dataclass(frozen=True, slots=True)
class Received:
    """The result of one item."""

    worker: str
    delivery: int
    place: int
    """Position of the item in the delivery, from 0."""
    result: Result
    name: str = ""
    """Name of the process and thread that made it."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A worker has finished a delivery. Items without a result are queued again."""

    worker: str
    delivery: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A worker refused a delivery before it began: it is busy, is shutting down, or cannot access the storage.

    The items are not charged.
    """

    worker: str
    delivery: int
    reason: str
    is_final: bool = False
    """Whether the worker will never accept this task. If all workers refuse it finally, the items fail."""
    counts: bool = True
    """Whether it counts towards `Rules.refusals`."""


@dataclass(frozen=True, slots=True)
class Returned:
    """A delivery was lost without a failure, for example because a connection broke. No item is charged."""

    worker: str
    delivery: int


@dataclass(frozen=True, slots=True)
class Left:
    """A worker has left without a failure. Its items are queued again, and none is charged."""

    worker: str
    others: tuple[str, ...] = ()
    """Workers that have left with it."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A delivery has failed on a worker that continues. Its item in progress is charged."""

    worker: str
    delivery: int
    failure: Failure
    done: int = 0
    """Number of items of the delivery that are known to be complete, although their results may not have arrived.
    If it is the number of all items, no item was in progress."""


@dataclass(frozen=True, slots=True)
class Died:
    """A worker has died, missed its heartbeats, or was ended for an invalid message. Its items in progress are
    charged."""

    worker: str
    """Empty if it is unknown which one of `others` has died. Then their items in progress become
    suspects, which run alone, and are not charged. A suspect in progress is charged."""
    failure: Failure
    others: tuple[str, ...] = ()
    """Workers that ended with it. Their items are queued again, and none is charged."""


Event = Joined | Begun | Paused | Received | Finished | Refused | Returned | Left | Broken | Died

# Commands, carried out by a transport or by the engine.


@dataclass(frozen=True, slots=True)
class Send:
    """Send a task to a worker."""

    worker: str
    task: Task
    """Its `id` is the delivery's number, and it has only the items of this delivery."""
    must_accept: bool = False
    """Whether the worker must not refuse it because of its load."""
    ahead: int = 0
    """Number of items that the worker has to process before these."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Drop the items of a delivery that a worker has not begun: others process them, or the run was stopped."""

    worker: str
    delivery: int
    keep: int = 0
    """Number of its first items that must still be processed. The worker may not have begun the last one of
    them."""


@dataclass(frozen=True, slots=True)
class End:
    """End the worker of a delivery, or only the delivery, at once and by force: see `Rules.ends`.

    The scheduler has already removed the worker or the delivery.
    """

    worker: str
    delivery: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class Start:
    """Start one more worker. The transport reports it by `Joined`."""


@dataclass(frozen=True, slots=True)
class Progress:
    """For the driver: the result of one item of a task in progress."""

    ticket: Ticket
    place: int
    result: Result


@dataclass(frozen=True, slots=True)
class Completed:
    """For the driver: a task has a result for each of its items."""

    ticket: Ticket
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Cancelled:
    """For the driver: a task was cancelled before it was sent to a worker."""

    ticket: Ticket


Command = Send | Drop | End | Start | Progress | Completed | Cancelled


def _always() -> bool:
    return True


@dataclass(eq=False, slots=True)
class Ticket:
    """A submitted task and its state, until each of its items has a result."""

    task: Task
    begin: Callable[[], bool] = _always
    """Called once, before the first delivery. Returns False if the task was cancelled."""
    results: dict[int, Result] = field(default_factory=dict)
    """Results by the item's position in the task."""
    reports: bool = False
    """Whether each result is reported at once, by `Progress`."""
    has_begun: bool = False
    is_suspect: bool = False
    """Whether an attempt at one of its items has failed before."""
    returns: int = 0
    """Number of deliveries returned without a result and without a failure, since the last result."""
    refusals: int = 0
    refused_by: set[str] = field(default_factory=set)
    barred: set[str] = field(default_factory=set)
    """Workers that have refused it finally."""
    must_accept: bool = False
    deliveries: int = 0
    """Number of its deliveries in flight."""
    was_lost: bool = False
    """Whether a worker has died while it had a delivery of this task."""
    is_cut_short: bool = False
    """Whether only its items in progress are still wanted."""
    is_over: bool = False
    """Whether it was reported as complete or cancelled."""

    def __post_init__(self) -> None:
        self.is_suspect = any(work.attempt > 1 for work in self.task.work)

    @property
    def unwilling(self) -> set[str]:
        """Workers that must not get it now."""
        return self.refused_by | self.barred if self.barred else self.refused_by

    @property
    def missing(self) -> list[int]:
        """Positions of the items without a result."""
        return [place for place in range(len(self.task.work)) if place not in self.results]
