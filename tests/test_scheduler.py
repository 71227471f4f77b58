"""The scheduler by itself, on a clock that the tests move: deliveries, losses, charges, suspects, time-outs."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageloom.model import Item, Limits, Output, Recipe, Result, Task, Work
from imageloom.scheduling.protocol import (
    Begun,
    Broken,
    Completed,
    Died,
    Drop,
    End,
    Finished,
    Left,
    Paused,
    Progress,
    Received,
    Refused,
    Returned,
    Start,
)
from imageloom.scheduling.scheduler import FIRST_BACKOFF, START_PATIENCE
from scheduled import LOST, World, task


def test_results_make_the_outcome_in_the_order_of_the_task() -> None:
    world = World()
    world.join("w")
    (ticket,) = world.submit(task(7, "a", "b"), reports=True)
    world.submit(task(8, "c"))
    (send,) = world.sent()
    assert world.done(send, 0)
    assert not world.outcomes
    assert world.done(send, 1)
    outcome = world.outcomes[7]
    assert [result.key for result in outcome.results] == ["a", "b"]
    assert outcome.worker == "w/t"
    assert [(p.ticket, p.place) for p in world.of(Progress)] == [(ticket, 0), (ticket, 1)]
    assert world.keys("w") == [["a", "b"], ["c"]], "one at a time"


def test_a_dead_worker_is_charged_for_what_was_in_progress_and_others_do_the_rest() -> None:
    world = World()
    world.join("dies")
    world.submit(task(1, "a", "b", "c"))
    (first,) = world.sent()
    world.done(first, 0)
    world.now = 5.0
    world.handle(Died("dies", LOST))
    world.join("lives")
    second = world.sent("lives")[0]
    assert world.keys("lives") == [["c"]]
    assert not world.done(first, 1), "it is too late"
    world.finish(second)
    assert world.failures(1) == ["", "WorkerLost", ""]
    lost = world.outcomes[1].results[1]
    assert (lost.lost, lost.started, lost.worker) == (5.0, 1000.0, "dies")


def test_only_as_many_items_as_a_worker_has_slots_are_in_progress() -> None:
    world = World()
    world.join("w", slots=2, ahead=2)
    world.submit(*(task(number, f"{number}") for number in range(5)))
    assert world.keys("w") == [["0"], ["1"], ["2"], ["3"]]
    world.handle(Died("w", LOST))
    assert sorted(world.outcomes) == [0, 1], "the others had not begun"
    world.join("v", slots=9)
    assert world.keys("v") == [["2"], ["3"], ["4"]]


def test_who_reports_what_begins_is_charged_for_that_alone() -> None:
    world = World()
    world.join("w", slots=3, reports_begin=True)
    world.submit(task(1, "a"), task(2, "b"), task(3, "c"))
    world.handle(Begun("w", world.sent()[1].task.id), Died("w", LOST))
    assert sorted(world.outcomes) == [2]


def test_a_worker_that_dies_at_its_start_is_replaced_later_and_later_and_charges_nobody() -> None:
    world = World(jobs=1)
    world.submit(task(1, "a"))
    started = []
    for number in range(4):
        world.wait(3.0)
        assert len(world.of(Start)) == number + 1
        started.append(world.now)
        world.join(f"w{number}", is_ready=False)
        world.handle(Died(f"w{number}", LOST))
        assert world.scheduler.next_due(world.now) == pytest.approx(FIRST_BACKOFF * 2**number)
    assert not world.outcomes
    world.wait(3.0)
    world.join("good")
    world.finish(world.sent("good")[0])
    assert world.failures(1) == [""]


def test_workers_are_kept_at_their_number() -> None:
    world = World(jobs=2)
    world.scheduler.tick(0.0)
    world._take()
    assert len(world.of(Start)) == 2
    world.join("a", "b")
    world.wait(1.0)
    assert len(world.of(Start)) == 2
    world.handle(Died("a", LOST))
    world.wait(0.01)
    assert len(world.of(Start)) == 3
    world.wait(1.0)
    assert len(world.of(Start)) == 3, "it is on its way"


def test_a_worker_that_never_starts_is_replaced() -> None:
    world = World(jobs=1)
    world.submit(task(1, "a"))
    world.wait(0.1)
    world.join("w", is_ready=False)
    world.wait(START_PATIENCE + 1)
    assert [end.worker for end in world.of(End)] == ["w"]
    assert len(world.of(Start)) == 2
    assert not world.outcomes, "no item is to blame"


def test_a_worker_that_leaves_costs_no_attempt() -> None:
    world = World()
    world.join("leaves")
    world.submit(task(1, "a", "b"))
    world.handle(Left("leaves"))
    world.join("stays")
    world.finish(world.sent("stays")[0])
    assert world.failures(1) == ["", ""]


@pytest.mark.parametrize("event", [Returned, Left])
def test_what_comes_back_again_and_again_is_charged_in_the_end(event: Any) -> None:
    world = World(returns=3)
    world.submit(task(1, "a", "b"))
    for number in range(3):
        world.join(f"w{number}")
        world.handle(Left(f"w{number}"))
    assert not world.of(Completed)
    world.join("w9")
    send = world.sent("w9")[0]
    world.handle(Left("w9") if event is Left else Returned("w9", send.task.id))
    world.join("good")
    world.finish(world.sent()[-1])
    assert world.failures(1) == ["WorkerLost", ""]


def test_an_item_that_takes_too_long_ends_its_worker_and_is_charged_alone() -> None:
    world = World(timeout=2.0, jobs=1)
    world.scheduler.tick(0.0)
    world.join("w", slots=2)
    world.submit(task(1, "hangs", "behind"), task(2, "beside"))
    assert len(world.sent()) == 2
    world.wait(1.9)
    assert not world.of(End)
    world.wait(0.2)
    (end,) = world.of(End)
    assert (end.worker, end.failure.kind, end.failure.transient) == ("w", "ItemTimeout", True)
    assert "2 s (--timeout)" in end.failure.message
    assert len(world.of(Start)) == 2
    world.join("v", slots=3)
    for send in world.sent("v"):
        world.finish(send)
    assert world.failures(1) == ["ItemTimeout", ""]
    assert world.failures(2) == [""], "it was done beside it and is not to blame"


def test_the_time_of_an_item_begins_with_it() -> None:
    world = World(timeout=2.0)
    world.join("w")
    world.submit(task(1, "a", "b", "c"))
    for place in range(3):
        world.wait(1.5)
        world.done(world.sent()[0], place)
    assert world.failures(1) == ["", "", ""]


def test_the_time_of_an_item_begins_when_its_worker_is_ready() -> None:
    world = World(timeout=2.0, jobs=1)
    world.submit(task(1, "a"))
    world.wait(0.1)
    world.join("w", is_ready=False)
    world.wait(5.0)
    world.join("w")
    world.wait(1.0)
    world.finish(world.sent()[0])
    assert world.failures(1) == [""]


def test_workers_that_end_with_a_dead_one_are_not_charged() -> None:
    world = World(isolation="engine")
    world.join("a", "b", "c", ahead=1)
    world.submit(*(task(number, f"{number}") for number in range(1, 6)))
    for _ in range(5):  # none of it counts as given back
        guilty = world.sent()[-1].worker
        world.handle(Died(guilty, LOST, tuple({"a", "b", "c"} - {guilty})))
        world.join("a", "b", "c", ahead=1)
    charged = [number for number in range(1, 6) if number in world.outcomes]
    assert len(charged) == 5, "one for each death"
    assert all(world.failures(number) == ["WorkerLost"] for number in charged)


def test_one_death_among_workers_that_end_together_charges_one_item() -> None:
    world = World(isolation="engine")
    world.join("a", "b", "c", ahead=1)
    world.submit(*(task(number, f"{number}") for number in range(1, 6)))
    world.handle(Died("b", LOST, ("a", "c")))
    assert list(world.outcomes) == [2]
    world.join("a", "b", "c")
    assert sorted(key for [key] in world.keys("")[5:]) == ["1", "3", "4"], "three have room, and one waits"


def test_an_unknown_death_charges_nobody_and_what_was_in_progress_runs_alone() -> None:
    world = World(isolation="engine")
    world.join("a", "b", ahead=1)
    world.submit(*(task(number, f"{number}") for number in range(1, 5)))
    world.handle(Died("", LOST, ("a", "b")))
    assert not world.outcomes
    world.join("a", "b")
    rest = world.sent()[4:]
    assert sorted(send.task.work[0].item.key for send in rest) == ["3", "4"], "they had not begun"
    for send in rest:
        world.finish(send)
    *_, alone = world.sent()
    assert len(world.sent()) == 7
    world.handle(Died("", LOST, ("a", "b")))
    (charged,) = world.outcomes.keys() - {3, 4}
    assert str(charged) == alone.task.work[0].item.key, "it ran alone: it is to blame"
    world.join("a", "b")
    world.finish(world.sent()[-1])
    assert world.outcomes.keys() == {1, 2, 3, 4}
    assert world.scheduler.is_idle


def test_workers_that_leave_together_take_no_more_work_meanwhile() -> None:
    world = World(isolation="engine")
    world.join("a", "b", "c")
    world.submit(task(1, "x"))
    for _ in range(6):
        world.handle(Left("a", ("b", "c")))
        world.join("a", "b", "c")
    assert len(world.sent()) == 7
    assert not world.outcomes


def test_each_item_may_be_a_delivery() -> None:
    world = World(splits=True)
    world.join("a", slots=3)
    (ticket,) = world.submit(task(1, "x", "y", "z"))
    assert world.keys("a") == [["x"], ["y"], ["z"]]
    first, second, third = world.sent()
    world.finish(third)
    world.handle(Returned("a", second.task.id))
    assert world.keys("a")[3:] == [["y"]], "it is sent again although others of its task are under way"
    world.handle(Broken("a", first.task.id, LOST))
    assert not world.outcomes
    world.finish(world.sent()[-1])
    assert [result.key for result in world.outcomes[1].results] == ["x", "y", "z"]
    assert world.failures(1) == ["WorkerLost", "", ""]
    assert ticket.is_over


def test_no_time_runs_for_what_was_put_aside() -> None:
    world = World(timeout=10.0, ends="delivery")
    world.join("a", slots=2, reports_begin=True)
    world.submit(task(1, "x"))
    number = world.sent()[0].task.id
    world.handle(Begun("a", number, ago=4.0))
    world.wait(5.0)
    world.handle(Paused("a", number))
    world.wait(50.0)
    assert not world.of(End)
    world.handle(Begun("a", number, ago=4.0))
    world.wait(5.0)
    assert not world.of(End)
    world.wait(2.0)
    assert [end.delivery for end in world.of(End)] == [number]
    assert world.failures(1) == ["ItemTimeout"]


def test_where_only_a_delivery_can_be_ended_the_worker_goes_on() -> None:
    world = World(timeout=2.0, ends="delivery")
    world.join("w", slots=2)
    world.submit(task(1, "hangs", "behind"), task(2, "beside"))
    hanging, beside = world.sent()
    world.wait(1.0)
    world.finish(beside)
    world.wait(1.5)
    (end,) = world.of(End)
    assert end.delivery == hanging.task.id
    assert world.keys("w")[-1] == ["behind"]
    assert not world.done(hanging, 0)
    world.finish(world.sent()[-1])
    assert world.failures(1) == ["ItemTimeout", ""]


def test_what_waits_behind_a_slow_item_goes_to_others() -> None:
    world = World()
    world.join("w", "v")
    world.submit(task(0, *"abcdefgh"))
    for place in range(8):
        world.done(world.sent()[0], place)
    world.submit(task(1, "slow", "b", "c"))
    slow = world.sent()[-1]
    world.wait(5.0)
    assert world.of(Drop) == [Drop(slow.worker, slow.task.id, keep=1)]
    again = world.sent()[-1]
    assert again.worker != slow.worker
    assert [work.item.key for work in again.task.work] == ["b", "c"]
    assert world.done(slow, 0)
    assert not world.done(slow, 1), "it did not know yet that others do it"
    assert not world.of(End), "which is no fault"
    world.finish(again)
    assert world.failures(1) == ["", "", ""]


def test_a_large_item_is_not_slow_because_the_others_are_small() -> None:
    from imageloom.model import Frame, Header

    def sized(number: int, width: int) -> Task:
        header = Header("jpeg", Frame(width, width, 3))
        work = tuple(Work(Item(f"{number}-{i}"), (f"{i}",), i, header=header) for i in range(2))
        return Task(number, "1", "in", "out", Recipe((Output(()),)), Limits(), work)

    world = World()
    world.join("w")
    for number in range(60):
        world.submit(sized(number, 100))
        world.finish(world.sent()[-1])
    world.submit(sized(100, 10_000))
    world.wait(3.0)
    assert not world.of(Drop), "400 times the pixels of the others"
    world.done(world.sent()[-1], 0)
    world.submit(sized(101, 100))
    world.done(world.sent()[-1], 1)
    world.wait(3.0)
    assert world.of(Drop), "a small one is slow after that time"


EVENTS = ["result", "die", "leave", "return", "break", "refuse", "echo", "wait", "join", "begin"]


@given(st.lists(st.sampled_from(EVENTS), max_size=150), st.randoms(), st.data())
def test_every_item_comes_to_one_end_whatever_happens(
    events: list[str], random: Random, data: st.DataObject
) -> None:
    """Workers come, die, leave, refuse and repeat themselves; afterwards one good worker ends what is left."""
    world = World(
        data.draw(st.sampled_from(["", "random", "two-choices"])),
        isolation=data.draw(st.sampled_from(["none", "worker", "engine"])),
        copies=data.draw(st.booleans()),
        ends=data.draw(st.sampled_from(["worker", "delivery"])),
        timeout=5.0,
    )
    names = iter(range(1000))
    world.join(*(f"w{next(names)}" for _ in range(3)), slots=2, ahead=1)
    world.submit(*(task(n, *(f"{n}-{i}" for i in range(4)), attempt=1 + n % 2) for n in range(5)))
    said: list[Received] = []

    def held() -> list[tuple[str, int]]:
        return [(w.name, number) for w in world.scheduler.workers for number in w.deliveries]

    for event in events:
        found = held()
        worker, number = random.choice(found) if found else ("", 0)
        if event == "join":
            world.join(f"w{next(names)}", slots=random.randrange(1, 3), reports_begin=random.random() < 0.3)
        elif event == "wait":
            world.wait(random.random() * 3)
        elif event == "echo":
            if said and (one := random.choice(said)).worker in {w.name for w in world.scheduler.workers}:
                assert not world.handle(one), "a result is taken once"
        elif not found:
            continue
        elif event == "result":
            delivery = next(w for w in world.scheduler.workers if w.name == worker).deliveries[number]
            result = Result(world.tasks[number].work[delivery.done].item.key)
            said.append(Received(worker, number, delivery.done, result, worker))
            assert world.handle(said[-1])
        else:
            event_of = {
                "die": Died(worker, LOST),
                "leave": Left(worker),
                "return": Returned(worker, number),
                "break": Broken(worker, number, LOST),
                "refuse": Refused(worker, number, "it is busy", counts=random.random() < 0.5),
                "begin": Begun(worker, number),
            }
            world.handle(event_of[event])
    for worker in [w.name for w in world.scheduler.workers]:
        world.handle(Left(worker))
    world.join("good")
    for _ in range(100):
        for _, number in held():
            send = next(s for s in world.sent() if s.task.id == number)
            for place in range(len(send.task.work)):
                world.done(send, place)
            world.handle(Finished("good", number))
    assert world.scheduler.is_idle
    assert not world.scheduler.waiting
    completed = [command.outcome for command in world.of(Completed)]
    assert sorted(outcome.task for outcome in completed) == [0, 1, 2, 3, 4], "once each"
    for outcome in completed:
        assert [r.key for r in outcome.results] == [f"{outcome.task}-{i}" for i in range(4)]
