"""Simulated time, which passes when the driver waits; and the driver's process, which is killed at some step."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from queue import Empty
from random import Random

from imageloom.driver.clock import Clock, Finished

MOST_ACTIONS = 50_000
MOST_SECONDS = 1000.0
"""Actions and simulated seconds of one history: one that has more does not end."""
LEAPS = 0.05
"""Probability that time passes at a step of the driver."""


class NeverEnds(BaseException):
    """A history has had too many actions."""


class Killed(BaseException):
    """The driver's process was killed: nothing that it still does has any effect."""


class SimulatedTime:
    """A clock and the actions that are due, in the order of their moments."""

    def __init__(self) -> None:
        self.now = 0.0
        self.actions = 0
        """How many have happened."""
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0

    def monotonic(self) -> float:
        return self.now

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Call something after so many simulated seconds."""
        self._count += 1
        heapq.heappush(self._due, (self.now + seconds, self._count, action))

    def advance(self, until: float) -> bool:
        """Go on to the next action; to the moment `until`, and False, where none is due before it."""
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
        """Let so many seconds pass."""
        until = self.now + seconds
        while self.advance(until):
            pass


class DriverProcess:
    """The process that the driver runs in, as a number of steps. Time may pass at each of them.

    Args:
        steps: after so many the process is killed; 0 for never.
    """

    def __init__(self, time: SimulatedTime, random: Random, steps: int) -> None:
        self.is_dead = False
        self.steps = 0
        self._time, self._random, self._last = time, random, steps
        self._is_passing = False

    def step(self) -> None:
        """The driver is about to do something.

        Raises:
            Killed: it does not do it any more.
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
    """The driver's clock. To wait in a queue of it makes time pass."""

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

    def get(self, *, timeout: float) -> Finished:
        self._process.step()
        until = self._time.now + timeout
        while not self._items:
            if not self._time.advance(until):
                raise Empty
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items
