"""The simulation of the experiment, held against what can be worked out."""

from __future__ import annotations

import pytest

from imageloom.bench.scenario import Costs, Scenario, simulate
from imageloom.scheduling.policies import CHOICES


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("cores", [1, 2, 8])
def test_idle_nodes_are_as_fast_as_their_cores(choice: str, cores: int) -> None:
    made = simulate(Scenario("mandatory", choice, (0.0,) * 4), Costs(0.01, 0.0, cores), seed=1)
    assert made == pytest.approx(400 * 0.01 / cores, rel=0.15)


def test_a_loaded_node_that_must_accept_holds_up_what_chance_gives_it() -> None:
    """A quarter of the tasks, of which nine in ten wait, two at a time."""
    loaded = Scenario("mandatory", "random", (0.9, 0, 0, 0))
    times = [simulate(loaded, Costs(0.001, 0.0, 2), seed) for seed in range(20)]
    assert sum(times) / 20 == pytest.approx(100 * 0.9 * 0.3 / 2, rel=0.1)


def test_a_loaded_node_that_may_reject_gets_a_tenth_of_that() -> None:
    loaded = Scenario("optional", "random", (0.9, 0, 0, 0))
    times = [simulate(loaded, Costs(0.001, 0.0, 2), seed) for seed in range(20)]
    assert sum(times) / 20 < 0.4 * 100 * 0.9 * 0.3 / 2


def test_what_all_reject_is_accepted_in_the_end() -> None:
    rejecting = Scenario("optional", "random", (1.0,) * 4, tasks=16)
    rejected = simulate(rejecting, Costs(0.0, 0.0, 2), seed=1, rejections=3)
    assert rejected >= 16 * 0.3 / 8, "each of them is delayed, and all nodes work"


def test_rejections_take_time_of_the_cores() -> None:
    rejecting = Scenario("optional", "random", (1.0,) * 4, tasks=20, delay=0.0)
    made = simulate(rejecting, Costs(0.005, 0.001, 2), seed=1)
    assert made == pytest.approx(20 * (40 * 0.001 + 0.005) / 2, rel=0.15)
