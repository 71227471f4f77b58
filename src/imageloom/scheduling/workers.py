"""Workers and their deliveries, as the scheduler and the policies of placement see them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from imageloom.model import Work
from imageloom.scheduling.protocol import Ticket
from imageloom.scheduling.queue import Run
from imageloom.scheduling.states import InProgress, WorkerState

NEVER = float("inf")


@dataclass(eq=False, slots=True)
class Delivery:
    """Items of a task that were sent to one worker."""

    number: int
    ticket: Ticket
    places: list[int]
    done: int = 0
    """Number of items that have results. The next item is in progress."""
    began: float = NEVER
    """Time at which the first item was begun."""
    since: float = NEVER
    """Time at which the item in progress was begun; infinity before the first one."""
    is_cut: bool = False
    """Whether the items behind the item in progress were dropped. The worker may not have received the `Drop`
    yet."""
    is_suspect: bool = False
    """Whether it runs alone."""

    @property
    def work(self) -> Work:
        """The item in progress."""
        return self.ticket.task.work[self.places[self.done]]

    def item(self, now: float) -> InProgress | None:
        """The item in progress, to be shown; None before the first and after the last one."""
        done, since = self.done, self.since
        if since > now or done >= len(self.places):
            return None
        task = self.ticket.task
        return InProgress(task, task.work[self.places[done]].item.key, now - since)

    @property
    def has_begun(self) -> bool:
        return self.since < NEVER

    def begin(self, now: float) -> None:
        """Record the begin. A second call does not restart the time."""
        if not self.has_begun:
            self.since = now
            self.began = min(self.began, now)


@dataclass(eq=False, slots=True)
class Worker:
    """A worker, as the scheduler and the policies of placement see it."""

    name: str
    limit: int = 1
    """Number of deliveries that it processes at the same time."""
    ahead: int = 0
    load: float = 0.0
    seconds: float = 0.0
    """Mean time of a delivery, in seconds; 0 if unknown."""
    is_ready: bool = True
    reports_begin: bool = False
    deliveries: dict[int, Delivery] = field(default_factory=dict)
    """Its deliveries by number, in the order in which they were sent."""
    reserved: deque[Run] = field(default_factory=deque)
    """Runs that a policy has reserved for it while it had no free slot."""

    @property
    def in_hand(self) -> int:
        """Number of deliveries that it has or that are reserved for it."""
        return len(self.deliveries) + len(self.reserved)

    @property
    def room(self) -> int:
        """Number of further deliveries that it can get."""
        return self.limit + self.ahead - len(self.deliveries) if self.limit else 0

    @property
    def has_suspect(self) -> bool:
        return any(delivery.is_suspect for delivery in self.deliveries.values())

    def state(self, now: float) -> WorkerState:
        """What it has, as seen from any thread: deliveries may change meanwhile."""
        held = list(self.deliveries.values())
        items = tuple(one for delivery in held if (one := delivery.item(now)))
        return WorkerState(self.name, self.limit, self.load, items, len(held) - len(items))

    def in_progress(self) -> Iterator[Delivery]:
        return (delivery for delivery in self.deliveries.values() if delivery.has_begun)

    def mark_begun(self, now: float) -> None:
        """For workers that do not report it: mark the first deliveries as begun, one for each slot."""
        if not self.reports_begin:
            for delivery, _ in zip(self.deliveries.values(), range(self.limit), strict=False):
                delivery.begin(now)
