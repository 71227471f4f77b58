"""Workers and their deliveries, as the scheduler and the policies of placement see them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from imageloom.scheduling.protocol import Ticket
from imageloom.scheduling.queue import Run

NEVER = float("inf")


@dataclass(eq=False, slots=True)
class Delivery:
    """Items of a task that one worker was given."""

    number: int
    ticket: Ticket
    places: list[int]
    done: int = 0
    """How many of the places have their results: the next one is in progress."""
    began: float = NEVER
    """When the first item was begun."""
    since: float = NEVER
    """When the item in progress was begun; infinity before the first."""
    is_cut: bool = False
    """Items behind the one in progress were taken from the worker, which may not know it yet."""
    is_suspect: bool = False
    """It runs alone."""

    @property
    def has_begun(self) -> bool:
        return self.since < NEVER

    def begin(self, now: float) -> None:
        """Note the begin; a second one does not restart the time."""
        if not self.has_begun:
            self.since = now
            self.began = min(self.began, now)


@dataclass(eq=False, slots=True)
class Worker:
    """A worker, as the scheduler and the policies of placement see it."""

    name: str
    limit: int = 1
    """Deliveries that it works on at the same time."""
    ahead: int = 0
    load: float = 0.0
    seconds: float = 0.0
    """Mean of a delivery; 0 where none is known."""
    is_ready: bool = True
    reports_begin: bool = False
    deliveries: dict[int, Delivery] = field(default_factory=dict)
    """In the order in which they were sent."""
    reserved: deque[Run] = field(default_factory=deque)
    """What a policy has chosen it for while it had no room."""

    @property
    def in_hand(self) -> int:
        """Tasks that it has or is to have."""
        return len(self.deliveries) + len(self.reserved)

    @property
    def room(self) -> int:
        """Deliveries that it may still be given."""
        return self.limit + self.ahead - len(self.deliveries) if self.limit else 0

    @property
    def has_suspect(self) -> bool:
        return any(delivery.is_suspect for delivery in self.deliveries.values())

    def in_progress(self) -> Iterator[Delivery]:
        return (delivery for delivery in self.deliveries.values() if delivery.has_begun)

    def mark_begun(self, now: float) -> None:
        """Where it does not report what it begins: it begins what was sent first."""
        if not self.reports_begin:
            for delivery, _ in zip(self.deliveries.values(), range(self.limit), strict=False):
                delivery.begin(now)
