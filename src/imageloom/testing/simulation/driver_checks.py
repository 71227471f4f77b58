"""The laws of the driver, checked at every submitted task and at every finished item."""

from __future__ import annotations

from collections.abc import Callable

from imageloom.model import Task
from imageloom.testing.simulation.checks import MOST_ATTEMPTS


class DriverLaws:
    """The laws and the state of one run of the driver.

    Args:
        broken: called with a description of each broken law.
    """

    def __init__(self, memory: int, broken: Callable[[str], None]) -> None:
        self._memory, self._broken = memory, broken
        self.in_flight: dict[int, tuple[Task, int]] = {}
        """Tasks in flight by number, with their memory in bytes."""
        self.submitted = 0
        self.due: dict[str, float] = {}
        """Earliest time of the next attempt of each item, by key."""
        self.ended: dict[str, str] = {}
        """The outcome of each item, by key."""
        self.attempts: dict[str, int] = {}

    def submit(self, task: Task, needs: int, depth: int, now: float) -> None:
        """Check a task that the driver submits."""
        self.submitted += 1
        self.in_flight[task.id] = task, needs
        fresh = sum(1 for flying, _ in self.in_flight.values() if flying.work[0].attempt == 1)
        if len(self.in_flight) > 1:
            if task.work[0].attempt == 1 and fresh > depth:
                self._broken(f"{fresh} tasks in flight, more than {depth}")
            if sum(needs for _, needs in self.in_flight.values()) > self._memory:
                self._broken(f"the tasks in flight need more than {self._memory} bytes")
        for work in task.work:
            key = work.item.key
            if key in self.ended:
                self._broken(f"{key} is tried again, and is {self.ended[key]}")
            if work.attempt != self.attempts.get(key, 0) + 1 or work.attempt > MOST_ATTEMPTS:
                self._broken(f"{key} has its attempt {work.attempt} after {self.attempts.get(key, 0)}")
            if now < self.due.get(key, 0.0):
                self._broken(f"{key} is tried again before its pause is over")
            self.attempts[key] = work.attempt

    def end(self, key: str, what: str) -> None:
        if key in self.ended:
            self._broken(f"{key} is {self.ended[key]}, then {what}")
        self.ended[key] = what
