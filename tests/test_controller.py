"""The controller finds the size that is best, on loads that are simulated, and stays in its bounds."""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageloom.worker.controller import Controller, for_requests
from imageloom.worker.pool import SizedExecutor

Load = Callable[[float, int], float]
"""Seconds of one piece of work, at a time, beside so many others."""


class Simulation:
    """A pool of the size that its controller wants, on a clock of its own."""

    def __init__(self, load: Load, least: int, most: int, start: int, noise: float = 0.0, seed: int = 0):
        self.now = 0.0
        self.controller = Controller(least, most, start, lambda: self.now)
        self.sizes: list[int] = [start]
        self.done = 0
        self._load, self._noise, self._random = load, noise, random.Random(seed)
        self._running: list[float] = []

    def run(self, count: int) -> None:
        for _ in range(count):
            while len(self._running) < self.controller.size:
                seconds = self._load(self.now, len(self._running) + 1)
                seconds *= 1 + self._random.uniform(-self._noise, self._noise)
                heapq.heappush(self._running, self.now + seconds)
            self.now = heapq.heappop(self._running)
            self.controller.record()
            self.done += 1
            self.sizes.append(self.controller.size)

    @property
    def usual(self) -> float:
        """The mean of the last sizes."""
        last = self.sizes[len(self.sizes) // 2 :]
        return sum(last) / len(last)


def linear_up_to(limit: int, seconds: float = 0.02) -> Load:
    """Work that waits: as many at once as the other side serves."""
    return lambda now, beside: seconds * max(1.0, beside / limit)


@pytest.mark.parametrize(
    ("noise", "seed"),
    [(0.0, 0), (0.1, 0), (0.1, 1), *(pytest.param(0.1, n, marks=pytest.mark.long) for n in (2, 3, 4))],
)
@pytest.mark.parametrize("limit", [2, 5, 12, 30])
@pytest.mark.parametrize("start", [1, 4, 32])
def test_it_comes_near_the_best_size(limit: int, start: int, noise: float, seed: int) -> None:
    simulation = Simulation(linear_up_to(limit), 1, 32, start, noise, seed)
    simulation.run(40_000)
    assert 0.85 * limit <= simulation.usual <= 1.3 * limit + 1
    best = 0.02 * simulation.done / limit
    assert simulation.now <= 1.1 * best


@pytest.mark.parametrize("seed", range(5))
def test_it_follows_a_load_that_changes(seed: int) -> None:
    """Work that waits becomes work for two cores, and waits again."""
    waits, works = linear_up_to(12), linear_up_to(2, 0.004)
    changes = (60.0, 120.0)
    simulation = Simulation(
        lambda now, beside: (works if changes[0] < now < changes[1] else waits)(now, beside),
        1,
        32,
        2,
        0.1,
        seed,
    )
    at: dict[str, list[int]] = {"first": [], "then": [], "last": []}
    while simulation.now < 180:
        simulation.run(1)
        for name, begin in (("first", 20), ("then", 80), ("last", 140)):
            if begin < simulation.now < begin + 40:
                at[name].append(simulation.controller.size)
    means = {name: sum(sizes) / len(sizes) for name, sizes in at.items()}
    assert 10 <= means["first"] <= 17, means
    assert 1.7 <= means["then"] <= 4, means
    assert 10 <= means["last"] <= 17, means


@given(
    least=st.integers(1, 8),
    room=st.integers(0, 30),
    at=st.floats(0, 1),
    limit=st.integers(1, 60),
    noise=st.floats(0, 0.9),
    seed=st.integers(0, 1000),
)
def test_it_never_leaves_its_bounds(
    least: int, room: int, at: float, limit: int, noise: float, seed: int
) -> None:
    start = least + round(at * room)
    simulation = Simulation(linear_up_to(limit), least, least + room, start, noise, seed)
    simulation.run(3000)
    assert least <= min(simulation.sizes)
    assert max(simulation.sizes) <= least + room


def test_work_that_is_worse_together_gets_one_thread() -> None:
    """A lock that all of the work needs, and that costs more the more want it."""
    simulation = Simulation(lambda now, beside: 0.01 * beside**1.5, 1, 16, 8)
    simulation.run(20_000)
    assert simulation.usual < 1.5


def test_waiting_for_work_does_not_count() -> None:
    """A pool that waits for work most of the time keeps its size: the waiting says nothing of it."""
    now = 0.0
    controller = Controller(1, 32, 4, lambda: now)
    for turn in range(2000):
        now += 0.01
        controller.record()
        if turn % 5 == 0:
            now += 10
            for _ in range(4):
                controller.idle(10)
    assert controller.size == 4


def test_bounds_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="2 <= 1"):
        Controller(2, 4, 1)


def test_a_pool_grows_and_shrinks_with_its_controller() -> None:
    """As many calls at once as the controller says, and no more once it says less."""
    controller = Controller(1, 6, 3)
    running, most = 0, 0
    gate, lock = threading.Semaphore(0), threading.Lock()

    def call(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.acquire()
        with lock:
            running -= 1
        return number

    def settle(wanted: int) -> None:
        for _ in range(500):
            if running == wanted:
                return
            threading.Event().wait(0.01)
        raise AssertionError(f"{running} run, not {wanted}")

    before = set(threading.enumerate())
    pool = SizedExecutor(controller, "sized")
    futures: list[Future[int]] = [pool.submit(call, n) for n in range(40)]
    try:
        settle(3)
        controller._size = 6
        gate.release(3)
        settle(6)
        controller._size = 2
        gate.release(6)
        settle(2)
        assert most == 6
    finally:
        controller._size = 6
        gate.release(100)
        pool.shutdown()
    assert [future.result() for future in futures] == list(range(40))
    assert set(threading.enumerate()) == before


def test_a_call_that_raises_fails_alone() -> None:
    with SizedExecutor(Controller(1, 4, 2), "sized") as pool:
        failing = pool.submit(lambda: 1 // 0)
        assert pool.submit(lambda: 5).result() == 5
        assert isinstance(failing.exception(), ZeroDivisionError)


def test_a_pool_that_is_shut_takes_nothing_and_may_cancel() -> None:
    gate = threading.Event()
    pool = SizedExecutor(Controller(1, 1, 1), "sized")
    first = pool.submit(gate.wait)
    while not first.running():
        gate.wait(0.001)
    second = pool.submit(gate.wait)
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    pool.shutdown()
    assert first.result()
    assert second.cancelled()
    with pytest.raises(RuntimeError):
        pool.submit(gate.wait)


def test_a_pool_has_no_more_threads_than_calls() -> None:
    gate = threading.Event()
    before = set(threading.enumerate())
    with SizedExecutor(for_requests(0), "sized") as pool:
        calls = [pool.submit(gate.wait) for _ in range(3)]
        assert len(set(threading.enumerate()) - before) == 3
        gate.set()
        assert all(call.result() for call in calls)
        assert len(set(threading.enumerate()) - before) == 3


def test_a_trickle_leaves_the_size_as_it_is() -> None:
    """What comes one by one says nothing of how many could be under way together."""
    controller = for_requests(0)
    first = controller.size
    with SizedExecutor(controller, "sized") as pool:
        wait_for([pool.submit(time.sleep, 0.01) for _ in range(first)])
        for _ in range(1000):
            pool.submit(int).result()
    assert controller.size == first


def test_requests_that_wait_are_more_and_more() -> None:
    """A store that answers all at once, each after a while: no fixed number is as good as many."""
    controller = for_requests(0)
    first = controller.size
    with SizedExecutor(controller, "sized") as pool:
        for _ in range(1200):
            pool.submit(time.sleep, 0.1)
    assert controller._good > first


def test_a_number_that_is_asked_for_stays() -> None:
    controller = for_requests(8)
    sizes = set()
    with SizedExecutor(controller, "sized") as pool:
        for _ in range(400):
            pool.submit(time.sleep, 0.002).add_done_callback(lambda _: sizes.add(controller.size))
    assert sizes == {8}
