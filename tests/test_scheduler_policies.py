"""Which worker is offered a task by a policy, and what becomes of it there."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from imageloom.errors import UsageError
from imageloom.model import Failure, Result
from imageloom.scheduling import placement
from imageloom.scheduling.policies import accepts, open_choice
from imageloom.scheduling.protocol import (
    Begun,
    Broken,
    Cancelled,
    Drop,
    End,
    Finished,
    Left,
    Received,
    Refused,
    Returned,
    Send,
)
from scheduled import LOST, World, task


def world_of(choice: str = "least-loaded", **rules: Any) -> World:
    """As the engine `nodes` has it, without copies."""
    given = {"ends": "delivery", "isolation": "none", "cuts": False, "refusals": 40, "falls_back": False}
    return World(choice, **{**given, **rules})


def refuse(world: World, send: Send) -> None:
    world.handle(Refused(send.worker, send.task.id, "it is loaded"))


class Fixed:
    def __init__(self, name: str, in_hand: int = 0, load: float = 0.0, limit: int = 2, seconds: float = 0.0):
        self.name, self.in_hand, self.load = name, in_hand, load
        self.limit, self.seconds = limit, seconds


def chosen(choice: str, nodes: list[Fixed], tried: set[str] | None = None) -> Counter[str]:
    policy, random = open_choice(choice), Random(7)
    return Counter(policy.choose(nodes, tried or set(), random).name for _ in range(3000))


def test_random_takes_no_notice_of_anything() -> None:
    counts = chosen("random", [Fixed("a", 9, 0.9), Fixed("b"), Fixed("c")], {"b"})
    assert all(850 < counts[name] < 1150 for name in "abc")


def test_least_loaded_takes_the_idlest_for_its_limit() -> None:
    nodes = [Fixed("a", 2, limit=2), Fixed("b", 3, limit=8), Fixed("c", 1, load=0.9)]
    assert chosen("least-loaded", nodes) == {"b": 3000}
    assert chosen("least-loaded", nodes, {"b"}) == {"a": 3000}
    assert chosen("least-loaded", nodes, {"a", "b", "c"}) == {"b": 3000}, (
        "all have rejected: all are asked again"
    )
    even = chosen("least-loaded", [Fixed("a"), Fixed("b")])
    assert min(even.values()) > 1350, "those that are equal take turns by chance"


def test_two_choices_never_takes_the_worst_and_mostly_the_best() -> None:
    counts = chosen("two-choices", [Fixed("a"), Fixed("b", 1), Fixed("c", 2)])
    assert counts["c"] == 0
    assert 1850 < counts["a"] < 2150  # two of the three pairs
    assert chosen("two-choices", [Fixed("a")]) == {"a": 3000}


def test_weighted_goes_by_measured_speed() -> None:
    counts = chosen("weighted", [Fixed("a", seconds=0.1), Fixed("b", seconds=0.3), Fixed("c", limit=0)])
    assert counts["c"] == 0
    assert 2.6 < counts["a"] / counts["b"] < 3.4
    unknown = chosen("weighted", [Fixed("a", seconds=0.5), Fixed("b")])
    assert min(unknown.values()) > 1350, "who has not been measured counts as the others do"


def test_an_unknown_choice_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="'best'; there are: random, least-loaded, two-choices, weighted"):
        open_choice("best")


def test_an_optional_node_rejects_with_a_probability_equal_to_its_load() -> None:
    random = Random(3)
    assert 250 < sum(accepts("optional", 0.9, random) for _ in range(3000)) < 350
    assert all(accepts("optional", 0.0, random) for _ in range(100))
    assert all(accepts("mandatory", 1.0, random) for _ in range(100))


def test_jobs_take_turns_however_much_one_has_queued() -> None:
    world = world_of()
    world.submit(*(task(number, "x", job="large") for number in range(20)))
    world.submit(*(task(number, "x", job="small") for number in range(100, 104)))
    world.join("a")
    for _ in range(12):
        world.finish(world.sent()[-1])
    order = [send.task.job for send in world.sent()][:12]
    assert order[:8].count("small") >= 3
    assert order.count("small") == 4


def test_a_refused_task_goes_to_others_until_the_bound() -> None:
    world = world_of(refusals=3)
    world.join("a", "b")
    world.submit(task(1, "x", "y"))
    while not world.outcomes:
        refuse(world, world.sent()[-1])
    asked = [send.worker for send in world.sent()]
    assert len(asked) == 3
    assert set(asked[:2]) == {"a", "b"}, "who has refused it is not asked again at once"
    assert world.failures(1) == ["TaskRejected"] * 2
    failure = world.outcomes[1].results[0].failure
    assert failure is not None
    assert "3 times" in failure.message
    assert not failure.transient


def test_with_the_fallback_a_worker_must_accept_in_the_end() -> None:
    world = world_of("random", refusals=3, falls_back=True)
    world.join("a", load=0.9)
    world.submit(task(1, "x"))
    refused = 0
    while not world.sent()[-1].must_accept:
        refuse(world, world.sent()[-1])
        refused += 1
    assert refused == 3
    world.finish(world.sent()[-1])
    assert world.failures(1) == [""]


def test_a_worker_that_refuses_what_it_must_accept_is_charged() -> None:
    world = world_of("random", refusals=1, falls_back=True)
    world.join("a")
    world.submit(task(1, "x"))
    refuse(world, world.sent()[-1])
    assert world.sent()[-1].must_accept
    refuse(world, world.sent()[-1])
    assert world.failures(1) == ["InvalidResult"]


def test_a_dead_worker_costs_the_item_in_progress_an_attempt_and_the_others_nothing() -> None:
    world = world_of()
    world.join("a")
    world.submit(task(1, "x", "y", "z"))
    (first,) = world.sent()
    world.done(first, 0)
    world.join("a", slots=0)
    world.handle(Broken("a", first.task.id, LOST), Left("a"))
    world.join("b")
    assert world.keys("b") == [["z"]]
    world.finish(world.sent()[-1])
    assert world.failures(1) == ["", "WorkerLost", ""]


def test_a_worker_that_was_never_reached_costs_nothing() -> None:
    world = world_of()
    world.join("a", slots=2, reports_begin=True)
    world.submit(*(task(number, "x") for number in range(4)))
    first, second = world.sent()
    world.join("a", slots=0, reports_begin=True)
    world.handle(Returned("a", first.task.id), Returned("a", second.task.id), Left("a"))
    assert len(world.sent()) == 2
    world.join("b")
    for _ in range(4):
        world.finish(world.sent()[-1])
    assert [world.failures(number) for number in range(4)] == [[""]] * 4


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in progress is slow."""
    monkeypatch.setattr(placement, "LEAST_STRAGGLE", -1.0)
    monkeypatch.setattr(placement, "STRAGGLE", 0.0)


def test_a_slow_workers_last_task_is_given_to_another_and_the_first_result_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placement, "LEAST_STRAGGLE", 60.0)
    world = world_of(copies=True)
    world.join("slow", "quick")
    world.submit(task(1, "x", "y"))
    world.wait(1.0)
    assert len(world.sent()) == 1, "it is not slow yet"
    monkeypatch.setattr(placement, "LEAST_STRAGGLE", -1.0)
    world.wait(0.1)
    first, copy = world.sent()
    assert copy.worker != first.worker
    world.handle(Received(copy.worker, copy.task.id, 0, Result("x", pixels=2)))
    world.handle(Received(first.worker, first.task.id, 0, Result("x", pixels=1)))
    world.wait(0.1)
    assert len(world.sent()) == 2, "no third one"
    world.done(copy, 1)
    assert [result.pixels for result in world.outcomes[1].results] == [2, 0]
    assert [drop.delivery for drop in world.of(Drop)] == [first.task.id]
    world.handle(Finished(first.worker, first.task.id))
    assert world.scheduler.is_idle
    assert not world.scheduler.waiting


@pytest.mark.usefixtures("_at_once")
def test_what_harms_a_worker_is_not_copied_again_and_is_given_up() -> None:
    """Else a copy is always under way when another one is lost, and the item is tried for ever."""
    world = world_of(copies=True)
    world.join("a", "b")
    world.submit(task(1, "x", "y"))
    world.wait(0.1)
    first, copy = world.sent()
    lost = Failure("ItemTimeout", "it hangs", True)
    world.handle(Broken(first.worker, first.task.id, lost))
    world.wait(0.1)
    assert len(world.sent()) == 2, "it waits for what the copy comes to"
    world.handle(Broken(copy.worker, copy.task.id, lost))
    rest = world.sent()[-1]
    assert [work.item.key for work in rest.task.work] == ["y"], "the item in progress has cost an attempt"
    world.wait(0.1)
    assert len(world.sent()) == 3
    world.finish(rest)
    assert [result.failure for result in world.outcomes[1].results] == [lost, None]


@pytest.mark.usefixtures("_at_once")
def test_without_copies_a_slow_task_is_left_alone() -> None:
    world = world_of(copies=False)
    world.join("a", "b")
    world.submit(task(1, "x"))
    world.wait(1.0)
    assert len(world.sent()) == 1


def test_the_end_takes_back_what_no_worker_has() -> None:
    world = world_of("random")
    world.join("a")
    tickets = world.submit(*(task(number, "x") for number in range(5)))
    world.scheduler.close()
    world.handle()
    assert {command.ticket for command in world.of(Cancelled)} == set(tickets[1:])
    world.finish(world.sent()[0])
    assert list(world.outcomes) == [0]
    assert world.outcomes[0].worker == "a/t"


def test_what_a_dead_worker_had_done_costs_nothing_though_its_results_are_lost() -> None:
    world = world_of()
    world.join("a", reports_begin=True)
    world.submit(task(1, *"wxyz"))
    (first,) = world.sent()
    world.handle(Begun("a", first.task.id))
    world.done(first, 0)
    world.join("a", slots=0)
    world.handle(Broken("a", first.task.id, LOST, done=2), Left("a"))
    world.join("b")
    assert world.keys("b") == [["x", "z"]], "the first has its result, the third was in progress"
    world.join("b", slots=0)
    world.handle(Broken("b", world.sent()[-1].task.id, LOST, done=2), Left("b"))
    world.join("c")
    assert world.keys("c") == [["x", "z"]], "all were done: nobody is charged"
    world.finish(world.sent()[-1])
    assert world.failures(1) == ["", "", "WorkerLost", ""]


def test_a_worker_has_the_next_task_early_where_tasks_are_brief() -> None:
    world = world_of(brief=0.2, timeout=5.0)
    world.join("a", reports_begin=True)
    world.submit(*(task(number, f"{number}") for number in range(6)))
    (first,) = world.sent()
    world.wait(0.05)
    assert len(world.sent()) == 1, "it is not known how long they take"
    world.handle(Begun("a", first.task.id))
    world.now += 0.05
    world.finish(first)
    _, second, early = world.sent()
    assert (second.ahead, early.ahead) == (0, 1)
    world.wait(10.0)
    assert not world.of(End), "neither was begun"
    world.handle(Begun("a", second.task.id))
    world.now += 4.9
    world.finish(second)
    assert len(world.sent()) == 3, "they take so long that the way there is not felt"
    world.handle(Begun("a", early.task.id))
    world.wait(5.1)
    assert [end.delivery for end in world.of(End)] == [early.task.id]


def test_what_a_worker_says_of_its_load_counts_at_once() -> None:
    world = world_of()
    world.join("a", "b")
    world.join("b", load=0.5)
    world.submit(task(1, "x"))
    assert [send.worker for send in world.sent()] == ["a"]


@pytest.mark.parametrize("choice", ["", "random", "least-loaded"])
def test_what_one_worker_will_never_do_another_one_does(choice: str) -> None:
    world = world_of(choice)
    world.join("busy", "a")
    world.submit(*(task(number, "x") for number in range(3)))
    for _ in range(9):
        for send in world.sent():
            if send.task.id not in world.scheduler.deliveries(send.worker):
                continue
            if send.worker == "a":
                world.handle(Refused("a", send.task.id, "it does not see the storage", is_final=True))
            else:
                world.finish(send)
    assert [world.failures(number) for number in range(3)] == [[""]] * 3
    assert len(world.sent("a")) <= 3, "it is not asked for the same again"


@pytest.mark.parametrize("choice", ["", "random", "least-loaded"])
def test_what_no_worker_will_ever_do_fails_by_name(choice: str) -> None:
    world = world_of(choice)
    world.join("a", "b")
    world.submit(task(1, "x", "y"))
    for _ in range(2):
        send = world.sent()[-1]
        world.handle(Refused(send.worker, send.task.id, "it does not see the storage", is_final=True))
    assert world.failures(1) == ["TaskRefused"] * 2
    assert len({send.worker for send in world.sent()}) == 2
