"""What goes into the scheduler and what comes out of it: events of workers, and commands to them.

Plain data without behaviour. A worker is whatever a transport calls one, by a name of its choice: a process, a
node, a rank, a place in a stream. A delivery is one hand-over of a task to one worker; its number is the `id` of
the task that is sent, and no two deliveries have the same number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from imageloom.model import Failure, Outcome, Result, Task

# Events: what a transport reports.


@dataclass(frozen=True, slots=True)
class Joined:
    """A worker exists, or its size has changed."""

    worker: str
    slots: int = 1
    """Deliveries that it works on at the same time; 0 where it may not be given any: it is starting, or leaves and
    finishes what it has."""
    ahead: int = 0
    """Deliveries that it may hold beyond these, so that it need not wait for the next one."""
    load: float = 0.0
    """0 to 1, as the worker says; for placement only."""
    is_ready: bool = True
    """False for a process that is still starting: if it dies now, no item is to blame."""
    reports_begin: bool = False
    """The transport sends `Begun` and loses none: what has not begun has no time-out. Otherwise what was sent
    first counts as begun, one delivery for each slot."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A worker has begun a delivery, or goes on with one that it had put aside: its time runs from now on."""

    worker: str
    delivery: int
    ago: float = 0.0
    """Seconds since it was so."""


@dataclass(frozen=True, slots=True)
class Paused:
    """A worker has put a delivery aside until it begins it again: no time runs, and no death is its fault."""

    worker: str
    delivery: int


@dataclass(frozen=True, slots=True)
class Received:
    """The result of one item."""

    worker: str
    delivery: int
    place: int
    """Of the item in what was delivered, from 0."""
    result: Result
    name: str = ""
    """Who made it, in words: a process and a thread, say."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A worker has nothing more to say of a delivery. Items without a result are queued again."""

    worker: str
    delivery: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A worker did not begin a delivery and will not: it is busy, is leaving, does not see the storage.

    This costs the items no attempt.
    """

    worker: str
    delivery: int
    reason: str
    is_final: bool = False
    """It will never do it, whatever its load: where each worker has said so, the items fail."""
    counts: bool = True
    """It counts towards the number of refusals after which a task must be accepted, or fails."""


@dataclass(frozen=True, slots=True)
class Returned:
    """What a worker had of a delivery is lost without anybody's fault: a connection broke."""

    worker: str
    delivery: int


@dataclass(frozen=True, slots=True)
class Left:
    """A worker has gone without anybody's fault. What it had is queued again and costs no attempt."""

    worker: str
    others: tuple[str, ...] = ()
    """Workers that have gone with it."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A delivery has failed on a worker that goes on: its item in progress is charged."""

    worker: str
    delivery: int
    failure: Failure
    done: int = 0
    """Items of the delivery that are known to be complete although their results never arrived: where these are
    all, none was in progress."""


@dataclass(frozen=True, slots=True)
class Died:
    """A worker is dead, silent for too long, or ended for what it sent: the items in progress are charged."""

    worker: str
    """Empty where it is not known which one of `others` has died: what they had in progress is not charged, but
    runs alone from now on; if that happens to an item that runs alone, it is charged."""
    failure: Failure
    others: tuple[str, ...] = ()
    """Workers that ended with it: what they had is queued again and costs no attempt."""


Event = Joined | Begun | Paused | Received | Finished | Refused | Returned | Left | Broken | Died

# Commands: what a transport is asked for.


@dataclass(frozen=True, slots=True)
class Send:
    """Give a task to a worker."""

    worker: str
    task: Task
    """Its `id` is the delivery's number; its items are those of this delivery."""
    must_accept: bool = False
    """The worker may not refuse it for its load."""
    ahead: int = 0
    """Items that the worker has to do before these."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Nobody waits for what a worker has not begun of a delivery: others do it, or have done it."""

    worker: str
    delivery: int
    keep: int = 0
    """So many of its first items are still to be done: the worker may be just before the last one of them."""


@dataclass(frozen=True, slots=True)
class End:
    """End what works on a delivery, at once and by force.

    The scheduler has forgotten the worker, or the delivery alone where `Rules.ends` says so.
    """

    worker: str
    delivery: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class Start:
    """Start one more worker; the transport reports it by `Joined`."""


@dataclass(frozen=True, slots=True)
class Progress:
    """For the driver: the result of one item of a task that is not complete yet."""

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
    """For the driver: a task was cancelled before any worker had it."""

    ticket: Ticket


Command = Send | Drop | End | Start | Progress | Completed | Cancelled


def _always() -> bool:
    return True


@dataclass(eq=False, slots=True)
class Ticket:
    """A submitted task until each of its items has a result."""

    task: Task
    begin: Callable[[], bool] = _always
    """Asked once, before the first delivery: False where the task was cancelled meanwhile."""
    results: dict[int, Result] = field(default_factory=dict)
    """By the item's place in the task."""
    reports: bool = False
    """Each result is a `Progress` as soon as it is there."""
    has_begun: bool = False
    is_suspect: bool = False
    """An attempt at one of its items has failed before."""
    returns: int = 0
    """Deliveries without a result and without a fault, since the last result."""
    refusals: int = 0
    refused_by: set[str] = field(default_factory=set)
    barred: set[str] = field(default_factory=set)
    """Workers that will never do it."""
    must_accept: bool = False
    deliveries: int = 0
    """How many are under way."""
    was_lost: bool = False
    """A worker has died with it."""
    is_over: bool = False
    """It was reported as complete."""

    def __post_init__(self) -> None:
        self.is_suspect = any(work.attempt > 1 for work in self.task.work)

    @property
    def unwilling(self) -> set[str]:
        """Workers that are not to be asked for it now."""
        return self.refused_by | self.barred if self.barred else self.refused_by

    @property
    def missing(self) -> list[int]:
        """Places of the items without a result."""
        return [place for place in range(len(self.task.work)) if place not in self.results]
