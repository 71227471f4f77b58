"""The scheduler by itself, on a clock that the tests move: suspects, turns, refusals, copies, liars, the end."""

from __future__ import annotations

import pytest

from imageloom.model import Failure, Result
from imageloom.scheduling import placement
from imageloom.scheduling.placement import MOST_SUSPECTS
from imageloom.scheduling.protocol import (
    Broken,
    Cancelled,
    Completed,
    Died,
    Drop,
    End,
    Finished,
    Received,
    Refused,
    Start,
    Ticket,
)
from scheduled import LOST, World, task


def test_items_that_failed_before_come_last_and_run_alone() -> None:
    world = World()
    world.join("w", "v", slots=2)
    world.submit(task(0, "first"))
    world.submit(task(1, "suspect", attempt=2), task(2, "fresh"))
    assert [keys for send in world.sent() for keys in [[w.item.key for w in send.task.work]]] == [
        ["first"],
        ["fresh"],
    ]
    first, fresh = world.sent()
    world.finish(first)
    world.finish(fresh)
    suspect = world.sent()[-1]
    assert [work.item.key for work in suspect.task.work] == ["suspect"]
    world.submit(task(3, "later"), task(4, "last"), task(5, "waits"))
    later = [send for send in world.sent() if send.task.work[0].item.key in ("later", "last", "waits")]
    assert {send.worker for send in later} == {"w", "v"} - {suspect.worker}, "it has its worker alone"


def test_where_all_workers_die_together_a_suspect_has_the_engine_alone() -> None:
    world = World(isolation="engine")
    world.join("w", "v")
    world.submit(task(2, "a"), task(3, "b"), task(1, "suspect", attempt=2))
    a, b = world.sent()
    world.finish(a)
    assert len(world.sent()) == 2
    world.finish(b)
    suspect = world.sent()[-1]
    world.submit(task(4, "c"))
    assert len(world.sent()) == 3
    world.finish(suspect)
    assert len(world.sent()) == 4


def test_a_few_suspects_that_waited_long_do_not_wait_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.join("busy")
    world.submit(task(0, "busy"))
    world.submit(*(task(n, f"suspect {n}", attempt=2) for n in range(1, 2 * MOST_SUSPECTS + 1)))
    world.submit(*(task(n, f"fresh {n}") for n in range(50, 60)))
    world.now = placement.LONGEST_WAIT + 1
    world.join(*(f"w{n}" for n in range(MOST_SUSPECTS + 2)))
    kinds = [send.task.work[0].item.key.split()[0] for send in world.sent()[1:]]
    assert kinds.count("suspect") == MOST_SUSPECTS, "they may hang again, and take all workers"
    assert kinds.count("fresh") == 2


def test_jobs_take_turns_however_much_one_has_queued() -> None:
    world = World()
    world.submit(*(task(n, f"{n}", job="large") for n in range(20)))
    world.submit(*(task(n, f"{n}", job="small") for n in range(100, 104)))
    world.join("w")
    for _ in range(8):
        world.finish(world.sent()[-1])
    assert [send.task.job for send in world.sent()][:9].count("small") == 4


def test_a_refused_task_goes_elsewhere_and_costs_nothing() -> None:
    world = World(refusals=9)
    world.join("a", "b")
    world.submit(task(1, "x"))
    (send,) = world.sent()
    world.handle(Refused(send.worker, send.task.id, "it does not see the storage", counts=False))
    world.finish(world.sent()[-1])
    assert world.failures(1) == [""]


@pytest.mark.parametrize("falls_back", [True, False])
def test_refusals_have_a_bound(falls_back: bool) -> None:
    world = World("least-loaded", refusals=3, falls_back=falls_back)
    world.join("a", "b")
    world.submit(task(1, "x"))
    for _ in range(3):
        send = world.sent()[-1]
        world.handle(Refused(send.worker, send.task.id, "it is loaded"))
    assert {send.worker for send in world.sent()[:2]} == {"a", "b"}
    if falls_back:
        assert world.sent()[-1].must_accept
        world.finish(world.sent()[-1])
        assert world.failures(1) == [""]
    else:
        assert world.failures(1) == ["TaskRejected"]
        assert len(world.sent()) == 3


def test_a_final_refusal_fails_the_items() -> None:
    world = World()
    world.join("a")
    world.submit(task(1, "x", "y"))
    world.handle(Refused("a", world.sent()[0].task.id, "an unknown operator", is_final=True))
    assert world.failures(1) == ["TaskRefused", "TaskRefused"]


def test_an_idle_worker_copies_a_straggler_and_the_first_result_counts() -> None:
    world = World("least-loaded", copies=True)
    world.join("a", "b")
    world.submit(task(1, "x", "y"))
    slow = world.sent()[0]
    world.done(slow, 0)
    world.wait(1.0)
    copy = world.sent()[-1]
    assert copy.worker != slow.worker
    assert [work.item.key for work in copy.task.work] == ["y"]
    world.wait(5.0)
    assert len(world.sent()) == 2, "one copy"
    world.finish(copy)
    assert world.failures(1) == ["", ""]
    assert [(drop.worker, drop.delivery) for drop in world.of(Drop)] == [(slow.worker, slow.task.id)]
    world.handle(Finished(slow.worker, slow.task.id))
    assert world.scheduler.is_idle
    assert len(world.of(Completed)) == 1


def test_what_breaks_beside_a_copy_is_not_charged() -> None:
    world = World("least-loaded", copies=True)
    world.join("a", "b")
    world.submit(task(1, "x"))
    world.wait(1.0)
    slow, copy = world.sent()
    world.handle(Broken(slow.worker, slow.task.id, LOST))
    assert not world.outcomes
    world.finish(copy)
    assert world.failures(1) == [""]


def test_what_a_lost_delivery_is_known_to_have_done_is_not_charged() -> None:
    world = World()
    world.join("a")
    world.submit(task(1, "x", "y", "z"))
    world.handle(Broken("a", world.sent()[0].task.id, LOST, done=1))
    assert world.keys("a")[-1] == ["x", "z"]
    world.finish(world.sent()[-1])
    assert world.failures(1) == ["", "WorkerLost", ""]


@pytest.mark.parametrize(("place", "delivery"), [(1, 0), (0, 5), (7, 0)])
def test_a_worker_that_sends_what_was_not_due_is_ended(place: int, delivery: int) -> None:
    world = World()
    world.join("liar")
    world.submit(task(1, "a", "b", "c"))
    number = world.sent()[0].task.id + delivery
    assert not world.handle(Received("liar", number, place, Result("a"), "liar"))
    (end,) = world.of(End)
    assert (end.worker, end.failure.kind) == ("liar", "InvalidResult")
    world.join("good")
    for send in world.sent("good"):
        world.finish(send)
    assert world.failures(1) == ["InvalidResult", "", ""]


def test_where_others_write_in_its_name_a_worker_is_not_ended() -> None:
    world = World(ends_liars=False)
    world.join("w")
    world.submit(task(1, "a", "b"))
    assert not world.handle(Received("w", 99, 0, Result("a"), "w"))
    assert not world.of(End)
    world.finish(world.sent()[0])


def test_what_comes_twice_is_taken_once() -> None:
    world = World()
    world.join("w")
    world.submit(task(1, "a", "b"))
    (send,) = world.sent()
    assert world.done(send, 0)
    assert not world.done(send, 0)
    assert world.done(send, 1)
    assert not world.done(send, 1)
    assert len(world.of(Completed)) == 1
    assert not world.of(End)


def test_a_result_that_could_not_be_read_is_its_items() -> None:
    world = World()
    world.join("w")
    world.submit(task(1, "a"))
    unread = Result("", failure=Failure("InvalidResult", "it cannot be read", True))
    assert world.handle(Received("w", world.sent()[0].task.id, 0, unread, "w"))
    assert world.outcomes[1].results[0].key == "a"


def test_a_cancelled_task_is_never_sent() -> None:
    world = World()
    ticket = Ticket(task(1, "a"), begin=lambda: False)
    world.scheduler.submit(ticket, 0.0)
    world.join("w")
    assert not world.sent()
    assert [command.ticket for command in world.of(Cancelled)] == [ticket]


def test_after_the_end_nothing_is_begun_and_what_is_begun_is_finished() -> None:
    world = World(jobs=1)
    world.join("w")
    begun, waiting = world.submit(task(1, "a", "b"), task(2, "c"))
    world.scheduler.close()
    world._take()
    assert [command.ticket for command in world.of(Cancelled)] == [waiting]
    world.finish(world.sent()[0])
    assert begun.is_over
    assert world.scheduler.is_idle
    assert len(world.sent()) == 1
    world.handle(Died("w", LOST))
    world.wait(9.0)
    assert not world.of(Start)


def test_what_nobody_can_do_is_given_up() -> None:
    world = World()
    world.submit(task(1, "a", "b"))
    world.scheduler.give_up(LOST, 0.0)
    world._take()
    assert world.failures(1) == ["WorkerLost", "WorkerLost"]


def test_a_task_without_items_is_complete() -> None:
    world = World()
    world.submit(task(1))
    assert world.outcomes[1].results == ()


def test_a_worker_without_slots_finishes_what_it_has() -> None:
    world = World("least-loaded")
    world.join("leaves", slots=1)
    world.submit(*(task(number, f"{number}") for number in range(3)))
    assert world.scheduler.waiting == 2
    world.join("leaves", slots=0)
    world.join("stays")
    world.finish(world.sent("leaves")[0])
    for _ in range(2):
        world.finish(world.sent("stays")[-1])
    assert world.keys("leaves") == [["0"]]
    assert [world.failures(number) for number in range(3)] == [[""]] * 3


def test_where_nothing_of_a_lost_delivery_was_in_progress_nobody_is_charged() -> None:
    world = World(returns=2)
    world.join("a")
    world.submit(task(1, "x", "y"))
    for _ in range(2):
        world.handle(Broken("a", world.sent()[-1].task.id, LOST, done=2))
    assert not world.outcomes
    world.handle(Broken("a", world.sent()[-1].task.id, LOST, done=2))
    assert world.keys("a")[-1] == ["y"], "it cannot go on for ever"


def test_a_straggler_that_others_have_done_is_not_copied_again() -> None:
    world = World("least-loaded", copies=True)
    world.join("a", "b", "c")
    for number in range(30):  # the mean is short
        world.submit(task(number, "x"))
        world.finish(world.sent()[-1])
    world.submit(task(50, "slow"))
    world.wait(1.0)
    world.finish(world.sent()[-1])
    world.wait(1.0)
    assert len(world.sent()) == 32
    assert world.failures(50) == [""]


@pytest.mark.parametrize("ends", ["worker", "delivery"])
def test_what_nobody_waits_for_is_ended(ends: str) -> None:
    world = World(ends=ends)
    world.join("w", slots=2)
    (abandoned,) = world.submit(task(1, "hangs", "behind"))
    world.submit(task(2, "beside"), task(3, "later"))
    world.scheduler.abandon(abandoned, world.now)
    world.handle()
    assert [end.delivery for end in world.of(End)] == [world.sent()[0].task.id]
    assert world.failures(1) == ["WorkerLost", "WorkerLost"]
    world.join("v", slots=2)
    for send in world.sent()[1:]:
        if send.task.id in world.scheduler.deliveries(send.worker):
            world.finish(send)
    assert [world.failures(number) for number in (2, 3)] == [[""], [""]]
    assert world.scheduler.is_idle


@pytest.mark.parametrize("closes", [False, True])
def test_a_task_of_many_deliveries_is_cancelled_once(closes: bool) -> None:
    world = World(splits=True)
    asked = []

    def begin() -> bool:
        asked.append(world.now)
        return False

    ticket = Ticket(task(1, "a", "b", "c"), begin)
    world.scheduler.submit(ticket, 0.0)
    if closes:
        world.scheduler.close()
    world.join("w", slots=3)
    assert not world.sent()
    assert [command.ticket for command in world.of(Cancelled)] == [ticket]
    assert len(asked) <= 1
