"""Simulated time, which advances when the driver waits; and the driver's process, which is killed at a given
step."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from math import inf
from queue import Empty
from random import Random

from imageloom.driver.clock import Clock, Finished

MOST_ACTIONS = 50_000
MOST_SECONDS = 1000.0
"""Maximum number of actions and simulated seconds of one history. Above these, it counts as endless."""
LEAPS = 0.05
"""Probability that time advances at a step of the driver."""


class NeverEnds(BaseException):
    """A history exceeds its maximum number of actions or seconds."""


class Killed(BaseException):
    """The driver's process was killed. Its later actions have no effect."""


class SimulatedTime:
    """A clock, and scheduled actions in the order of their times."""

    def __init__(self) -> None:
        self.now = 0.0
        self.actions = 0
        """Number of actions that have run."""
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0

    def monotonic(self) -> float:
        return self.now

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Schedule a call after this simulated time, in seconds."""
        self._count += 1
        heapq.heappush(self._due, (self.now + seconds, self._count, action))

    def advance(self, until: float) -> bool:
        """Run the next action before `until`. If there is none, advance to `until` and return False."""
        self.actions += 1
        if self.actions > MOST_ACTIONS or self.now > MOST_SECONDS:
            raise NeverEnds
        if not self._due or self._due[0][0] > until:
            self.now = max(self.now, until)
            return False
        when, _, action = heapq.heappop(self._due)
        self.now = max(self.now, when)
        action()
        return True

    def pass_by(self, seconds: float) -> None:
        """Advance by this time in seconds, and run the actions that are due."""
        until = self.now + seconds
        while self.advance(until):
            pass


class DriverProcess:
    """The driver's process as a sequence of steps. Time may advance at each step.

    Args:
        steps: number of steps after which the process is killed; 0 for never.
    """

    def __init__(self, time: SimulatedTime, random: Random, steps: int) -> None:
        self.is_dead = False
        self.steps = 0
        self._time, self._random, self._last = time, random, steps
        self._is_passing = False

    def step(self) -> None:
        """Called before each action of the driver.

        Raises:
            Killed: the process is killed before the action.
        """
        self.check()
        self.steps += 1
        if self.steps == self._last:
            self.is_dead = True
            raise Killed
        if not self._is_passing and self._random.random() < LEAPS:
            self._is_passing = True
            self._time.pass_by(self._random.expovariate(100.0))
            self._is_passing = False

    def check(self) -> None:
        if self.is_dead:
            raise Killed


class SimulatedClock(Clock):
    """The driver's clock. Time advances when the driver waits for one of its queues."""

    def __init__(self, time: SimulatedTime, random: Random, process: DriverProcess) -> None:
        self._time, self._random, self._process = time, random, process
        self.monotonic = time.monotonic

    def random(self) -> float:
        return self._random.random()

    def queue(self) -> SimulatedQueue:
        return SimulatedQueue(self._time, self._process)


class SimulatedQueue:
    def __init__(self, time: SimulatedTime, process: DriverProcess) -> None:
        self._time, self._process = time, process
        self._items: deque[Finished] = deque()

    def put(self, item: Finished) -> None:
        self._items.append(item)

    def get(self, *, timeout: float | None) -> Finished:
        self._process.step()
        until = inf if timeout is None else self._time.now + timeout
        while not self._items:
            if not self._time.advance(until):
                raise Empty
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items
