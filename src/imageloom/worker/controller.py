"""Finds the best number of threads of a pool: hill climbing on the measured throughput.

A size is measured over an interval of completions. Then a neighbouring size is tried, first a distant one, then
nearer ones. It is kept if its gain is above the noise, or if it needs fewer threads. In between, the best size
is measured again, so that a change of the load is not mistaken for a gain. When no neighbour is better, the
controller rests. It searches again from time to time, or at once when the throughput has changed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LEAST_COMPLETIONS = 12
"""Minimum number of completions in an interval. It is also at least twice the number of threads."""
LEAST_SECONDS = 0.04
"""Minimum length of an interval, in seconds. A shorter one would measure the operating system's scheduler."""
SHARE = 0.25
"""A further thread is kept if it brings at least this share of an average thread's throughput."""
WIDEST, NARROWEST = 1.0, 0.125
"""Steps between sizes, as a share of the size: first doubling and halving, at last an eighth."""
CHANGED = 0.3
"""The load counts as changed if the throughput changes by more than this share."""
IDLE = 0.25
"""An interval is ignored if the threads were idle for more than this share of their time."""
SHORTEST_REST, LONGEST_REST = 16, 128
"""Number of intervals until the next search. It doubles each time that nothing better is found."""
LEAST_REQUESTS, MOST_REQUESTS, FIRST_REQUESTS = 4, 256, 64
"""Number of requests in flight to a remote store at the start: many, because a waiting request costs little."""


class Controller:
    """Chooses the size of a pool by its throughput. It has no threads of its own, and is thread-safe.

    Args:
        least: the smallest size.
        most: the largest size.
        start: the size before the first measurement.
        clock: returns a monotonic time in seconds.
    """

    def __init__(
        self, least: int, most: int, start: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not 1 <= least <= start <= most:
            raise ValueError(f"1 <= {least} <= {start} <= {most} is not true")
        self._least, self._most, self._clock = least, most, clock
        self._lock = threading.Lock()
        self._good = start
        """The best size so far."""
        self._rate = 0.0
        """Its throughput; 0 before it is measured."""
        self._size = start
        self._rest = SHORTEST_REST
        self._search(WIDEST)
        self._begin(skip=0)

    @property
    def most(self) -> int:
        """The largest size that it may choose."""
        return self._most

    @property
    def size(self) -> int:
        """The wanted size."""
        return self._size

    def record(self, amount: float = 1.0) -> None:
        """Count a piece of work that is done, of this amount."""
        if self._least == self._most:
            return
        with self._lock:
            if self._skip:  # this work began when the pool had another size
                self._skip -= 1
                self._since = self._clock()
                return
            self._amount += amount
            self._count += 1
            if self._count >= self._enough:
                seconds = self._clock() - self._since
                if self._idle > IDLE * seconds * self._size:
                    self._continue_with(self._good)
                elif seconds >= LEAST_SECONDS:
                    self._judge(self._amount / seconds)

    def idle(self, seconds: float) -> None:
        """Count time in seconds for which a thread was idle. An interval with much idle time is ignored."""
        with self._lock:
            self._idle += seconds

    def _begin(self, skip: int) -> None:
        """Start an interval after `skip` completions, which are not counted."""
        self._skip = skip
        self._amount, self._count, self._idle = 0.0, 0, 0.0
        # The effect of doubling and halving is visible at once.
        least = LEAST_COMPLETIONS if self._step < WIDEST else LEAST_COMPLETIONS // 2
        self._enough = max(least, 2 * self._size)
        self._since = self._clock()

    def _continue_with(self, size: int) -> None:
        before, self._size = self._size, size
        self._begin(skip=0 if size == before else before)

    def _search(self, step: float) -> None:
        """Start a search around the best size, larger sizes first."""
        self._step = step
        self._grow = True
        self._worse: set[int] = set()
        self._resting = 0

    def _judge(self, rate: float) -> None:
        """Evaluate the throughput of an interval, and choose the size of the next one."""
        if self._size != self._good:
            self._continue_with(self._judge_neighbour(rate))
        else:
            changed = self._rate and abs(rate / self._rate - 1) > CHANGED
            if changed:
                self._search(max(self._step, 0.5))
            self._rate = rate if changed or not self._rate else (self._rate + rate) / 2
            self._continue_with(self._neighbour())

    def _judge_neighbour(self, rate: float) -> int:
        """The next size: if this one is better, a further step, otherwise back."""
        if rate > self._rate * (1 + SHARE * (self._size / self._good - 1)):
            self._good, self._rate = self._size, rate
            self._worse.clear()
            self._rest = SHORTEST_REST
            return self._neighbour()
        self._worse.add(self._size)
        self._grow = not self._grow
        return self._good

    def _neighbour(self) -> int:
        """The next size to try, or the best one while resting."""
        if self._resting:
            self._resting -= 1
            if not self._resting:
                self._search(2 * NARROWEST)
            return self._good
        while self._step >= NARROWEST:
            for grow in (self._grow, not self._grow):
                size = self._beside(grow)
                if size != self._good and size not in self._worse:
                    self._grow = grow
                    return size
            self._step /= 2
            self._grow = True
        self._resting = self._rest
        self._rest = min(2 * self._rest, LONGEST_REST)
        return self._good

    def _beside(self, grow: bool) -> int:
        if grow:
            return min(self._most, self._good + max(1, round(self._good * self._step)))
        return max(self._least, min(self._good - 1, round(self._good / (1 + self._step))))


def fixed(size: int) -> Controller:
    """A controller with a fixed size."""
    return Controller(size, size, size)


def for_requests(asked: int, least: int = 1) -> Controller:
    """A controller for pools whose threads mostly wait for a store.

    Args:
        asked: a fixed size; 0 to find it by measuring.
        least: the smallest useful size.
    """
    if asked:
        return fixed(max(asked, least))
    return Controller(max(LEAST_REQUESTS, least), max(MOST_REQUESTS, least), max(FIRST_REQUESTS, least))
