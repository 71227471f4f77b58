"""How many threads a pool should have, found by measuring: hill climbing on throughput.

A size is measured over an interval of completions. Then a neighbour is tried, first far away, then nearer; it
is kept if it brings more than noise, or costs less. In between the size that is known to be good is measured
again, so that a load that drifts is not taken for a gain. When no neighbour is better the controller rests, and
looks around again now and then, or at once when the throughput has changed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LEAST_COMPLETIONS = 12
"""In an interval, at the least; and twice as many as there are threads."""
LEAST_SECONDS = 0.04
"""Of an interval: shorter ones measure the scheduler."""
SHARE = 0.25
"""A thread is worth having if it brings this part of what an average one brings."""
WIDEST, NARROWEST = 1.0, 0.125
"""Steps between sizes: doubling and halving at first, an eighth at last."""
CHANGED = 0.3
"""Part of the throughput that it must gain or lose for the load to count as changed."""
IDLE = 0.25
"""Part of the threads' time without work from which an interval is not judged."""
SHORTEST_REST, LONGEST_REST = 16, 128
"""Intervals until it looks around again; twice as many each time that nothing better is found."""
LEAST_REQUESTS, MOST_REQUESTS, FIRST_REQUESTS = 4, 256, 64
"""Requests in flight on a store with round trips: it begins with many, for one that waits costs little."""


class Controller:
    """Sizes a pool by what it gets done. It has no threads of its own, and any thread may call it.

    Args:
        least: the smallest size.
        most: the largest size.
        start: the size before anything is measured.
        clock: seconds, from any point in time.
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
        """The largest size that it may come to want."""
        return self._most

    @property
    def size(self) -> int:
        """The wanted size."""
        return self._size

    def record(self, amount: float = 1.0) -> None:
        """Note that a piece of work is done, which was so much."""
        if self._least == self._most:
            return
        with self._lock:
            if self._skip:  # it was begun when the pool had another size
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
        """Note that a thread has had nothing to do: where that is much, the interval says nothing of the size."""
        with self._lock:
            self._idle += seconds

    def _begin(self, skip: int) -> None:
        """Begin an interval after some completions."""
        self._skip = skip
        self._amount, self._count, self._idle = 0.0, 0, 0.0
        # Doubling and halving show at once.
        least = LEAST_COMPLETIONS if self._step < WIDEST else LEAST_COMPLETIONS // 2
        self._enough = max(least, 2 * self._size)
        self._since = self._clock()

    def _continue_with(self, size: int) -> None:
        before, self._size = self._size, size
        self._begin(skip=0 if size == before else before)

    def _search(self, step: float) -> None:
        """Look at sizes around the good one, the larger ones first."""
        self._step = step
        self._grow = True
        self._worse: set[int] = set()
        self._resting = 0

    def _judge(self, rate: float) -> None:
        """Take in the throughput of an interval, and choose the size of the next one."""
        if self._size != self._good:
            self._continue_with(self._judge_neighbour(rate))
        else:
            changed = self._rate and abs(rate / self._rate - 1) > CHANGED
            if changed:
                self._search(max(self._step, 0.5))
            self._rate = rate if changed or not self._rate else (self._rate + rate) / 2
            self._continue_with(self._neighbour())

    def _judge_neighbour(self, rate: float) -> int:
        """The next size: beyond one that is better; else back."""
        if rate > self._rate * (1 + SHARE * (self._size / self._good - 1)):
            self._good, self._rate = self._size, rate
            self._worse.clear()
            self._rest = SHORTEST_REST
            return self._neighbour()
        self._worse.add(self._size)
        self._grow = not self._grow
        return self._good

    def _neighbour(self) -> int:
        """The next size to try, or the good one at rest."""
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
    """One that always wants the same."""
    return Controller(size, size, size)


def for_requests(asked: int, least: int = 1) -> Controller:
    """One for pools whose threads wait for a store most of the time.

    Args:
        asked: the size; 0 for what measuring finds.
        least: the smallest size that makes sense.
    """
    if asked:
        return fixed(max(asked, least))
    return Controller(max(LEAST_REQUESTS, least), max(MOST_REQUESTS, least), max(FIRST_REQUESTS, least))
