"""Which node gets a task, and what becomes of it there: the bookkeeping without a network."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from imageloom.engines.nodes import dispatch
from imageloom.engines.nodes.dispatch import Delivery, Dispatcher, NodeRecord
from imageloom.errors import UsageError
from imageloom.model import Failure, Item, Limits, Recipe, Result, Task, Work
from imageloom.scheduling.policies import accepts, open_choice


def task(number: int, items: int = 1, job: str = "1") -> Task:
    works = tuple(Work(Item(f"{number}-{i}.jpg"), (f"{number}-{i}.jpg",), i) for i in range(items))
    return Task(number, job, "/in", "/out", Recipe(()), Limits(), works)


def dispatcher(choice: str = "least-loaded", rejections: int = 40, **options: Any) -> Dispatcher:
    given: dict[str, Any] = {"fallback": False, "stragglers": False, "random": Random(1), **options}
    return Dispatcher(open_choice(choice), rejections, **given)


def up(made: Dispatcher, name: str, limit: int = 1, load: float = 0.0) -> NodeRecord:
    node = made.add(name)
    made.is_up(node, limit, load)
    return node


def taken(made: Dispatcher, node: NodeRecord) -> Delivery:
    delivery = made.take(node, 0)
    assert delivery is not None
    return delivery


def finish(made: Dispatcher, delivery: Delivery) -> None:
    for work in delivery.task.work[delivery.done :]:
        made.has_results(delivery, [Result(work.item.key)])
    made.is_over(delivery)


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
    made = dispatcher()
    for number in range(20):
        made.submit(task(number, job="large"))
    for number in range(100, 104):
        made.submit(task(number, job="small"))
    node, order = up(made, "a"), []
    for _ in range(12):
        delivery = taken(made, node)
        order.append(delivery.task.job)
        finish(made, delivery)
    assert order[:8].count("small") >= 3
    assert order.count("small") == 4


def test_a_rejected_task_goes_to_others_until_the_bound() -> None:
    made = dispatcher(rejections=3)
    future = made.submit(task(1, 2))
    a, b = up(made, "a"), up(made, "b")
    asked = []
    while not future.done():
        delivery = made.take(a, 0) or taken(made, b)
        asked.append(delivery.node.name)
        made.is_rejected(delivery)
    assert len(asked) == 3
    assert set(asked[:2]) == {"a", "b"}, "who has rejected it is not asked again at once"
    results = future.result().results
    assert [r.failure and r.failure.kind for r in results] == ["TaskRejected"] * 2
    assert results[0].failure is not None
    assert "3 times" in results[0].failure.message
    assert not results[0].failure.transient


def test_with_the_fallback_a_node_must_accept_in_the_end() -> None:
    made = dispatcher("random", rejections=3, fallback=True)
    future, node = made.submit(task(1)), up(made, "a", load=0.9)
    rejected = 0
    while not (delivery := taken(made, node)).must_accept:
        made.is_rejected(delivery)
        rejected += 1
    finish(made, delivery)
    assert rejected == 3
    assert future.result(0).results[0].failure is None


def test_a_dead_node_costs_the_item_in_hand_an_attempt_and_the_others_nothing() -> None:
    made = dispatcher()
    future = made.submit(task(1, 3))
    a = up(made, "a")
    first = taken(made, a)
    made.has_results(first, [Result("1-0.jpg", pixels=1)])
    made.is_down(a, "it died")
    made.is_lost(first, Failure("WorkerLost", "it died", True))
    second = taken(made, up(made, "b"))
    assert [work.item.key for work in second.task.work] == ["1-2.jpg"]
    finish(made, second)
    kinds = [r.failure and r.failure.kind for r in future.result(0).results]
    assert kinds == [None, "WorkerLost", None]


def test_a_node_that_was_never_reached_costs_nothing() -> None:
    made = dispatcher()
    futures = [made.submit(task(number)) for number in range(4)]
    a = up(made, "a", limit=2)
    delivery = taken(made, a)
    made.is_down(a, "unreachable")
    made.is_unreached(delivery)
    assert made.take(a, 0) is None
    b = up(made, "b")
    for _ in futures:
        finish(made, taken(made, b))
    assert all(future.result(0).results[0].failure is None for future in futures)


def test_a_slow_nodes_last_task_is_given_to_another_and_the_first_result_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "LEAST_STRAGGLE", 60.0)
    made = dispatcher(stragglers=True)
    slow, quick = up(made, "slow"), up(made, "quick")
    future = made.submit(task(1, 2))
    first = made.take(slow, 0) or taken(made, quick)
    other = quick if first.node is slow else slow
    assert made.take(other, 0) is None, "it is not slow yet"
    cancelled = []
    first.cancel = lambda: cancelled.append(first)
    monkeypatch.setattr(dispatch, "LEAST_STRAGGLE", -1.0)  # now it is
    copy = taken(made, other)
    assert made.take(other, 0) is None, "no third one"
    made.has_results(copy, [Result("1-0.jpg", pixels=2)])
    made.has_results(first, [Result("1-0.jpg", pixels=1)])
    finish(made, copy)
    assert [r.pixels for r in future.result(0).results] == [2, 0]
    assert cancelled == [first]
    made.is_unreached(first)
    assert made.is_idle
    assert not made.has_waiting


def test_what_harms_a_node_is_not_copied_again_and_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a copy is always under way when another one is lost, and the item is tried for ever."""
    monkeypatch.setattr(dispatch, "LEAST_STRAGGLE", -1.0)
    made = dispatcher(stragglers=True)
    a, b = up(made, "a"), up(made, "b")
    future = made.submit(task(1, 2))
    first = made.take(a, 0) or taken(made, b)
    other = b if first.node is a else a
    copy = taken(made, other)
    lost = Failure("ItemTimeout", "it hangs", True)
    made.is_lost(first, lost)
    assert made.take(first.node, 0) is None, "it waits for what the copy comes to"
    made.is_lost(copy, lost)
    rest = made.take(other, 0) or taken(made, first.node)
    assert rest.places == [1], "the item in hand has cost an attempt"
    finish(made, rest)
    assert [r.failure for r in future.result(0).results] == [lost, None]


def test_without_stragglers_a_slow_task_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "LEAST_STRAGGLE", -1.0)
    made = dispatcher(stragglers=False)
    a, b = up(made, "a"), up(made, "b")
    made.submit(task(1))
    first = made.take(a, 0) or taken(made, b)
    assert made.take(b if first.node is a else a, 0) is None


def test_cancel_takes_back_what_no_node_has() -> None:
    made = dispatcher("random")
    node = up(made, "a")
    futures = [made.submit(task(number)) for number in range(5)]
    delivery = taken(made, node)
    made.cancel()
    assert [future.cancelled() for future in futures] == [False, True, True, True, True]
    finish(made, delivery)
    assert futures[0].result(0).worker == "a"


def test_what_a_dead_node_had_done_costs_nothing_though_its_results_are_lost() -> None:
    made = dispatcher()
    future = made.submit(task(1, 4))
    a = up(made, "a")
    first = taken(made, a)
    made.has_begun(first)
    made.has_results(first, [Result("1-0.jpg", pixels=1)])
    made.is_down(a, "it died")
    made.is_lost(first, Failure("WorkerLost", "it died", True), done=2)
    second = taken(made, up(made, "b"))
    assert second.places == [1, 3], "the first has its result, the third was in hand"
    made.is_lost(second, Failure("WorkerLost", "it died", True), done=2)
    third = taken(made, up(made, "c"))
    assert third.places == [1, 3], "all were done: nobody is charged"
    finish(made, third)
    kinds = [r.failure and r.failure.kind for r in future.result(0).results]
    assert kinds == [None, None, "WorkerLost", None]


def test_a_node_has_the_next_task_early_where_tasks_are_brief() -> None:
    made = dispatcher()
    for number in range(3):
        made.submit(task(number))
    node = up(made, "a")
    first = taken(made, node)
    assert made.take(node, 0) is None, "it is not known how long they take"
    node.seconds = 0.05
    early = taken(made, node)
    assert (first.ahead, early.ahead) == (0, 1)
    assert made.overdue(-1.0) == [], "neither was begun"
    made.has_begun(first)
    assert made.overdue(-1.0) == [first]
    assert made.take(node, 0) is None
    node.seconds = 1.0
    finish(made, first)
    assert made.take(node, 0) is None, "they take so long that the way there is not felt"
