"""The scheduler by itself, on a clock that the tests move: deliveries, losses, charges, suspects, time-outs."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageloom.model import Failure, Item, Limits, Outcome, Output, Recipe, Result, Task, Times, Work
from imageloom.scheduling import scheduler as module
from imageloom.scheduling.policies import open_choice
from imageloom.scheduling.protocol import (
    Begun,
    Broken,
    Cancelled,
    Command,
    Completed,
    Died,
    Drop,
    End,
    Finished,
    Joined,
    Left,
    Progress,
    Received,
    Refused,
    Returned,
    Send,
    Start,
    Ticket,
)
from imageloom.scheduling.rules import Rules
from imageloom.scheduling.scheduler import FIRST_BACKOFF, MOST_SUSPECTS, START_PATIENCE, Scheduler

LOST = Failure("WorkerLost", "its worker died", transient=True)


def task(number: int, *keys: str, attempt: int = 1, job: str = "1") -> Task:
    work = tuple(Work(Item(key), (key,), place, attempt) for place, key in enumerate(keys))
    return Task(number, job, "in", "out", Recipe((Output(()),)), Limits(), work)


class World:
    """A scheduler, its clock, and what it has commanded so far."""

    def __init__(self, choice: str = "", **rules: Any) -> None:
        self.scheduler = Scheduler(
            Rules(**rules), open_choice(choice) if choice else None, Random(1), epoch=1000.0
        )
        self.now = 0.0
        self.commands: list[Command] = []
        self.tasks: dict[int, Task] = {}

    def submit(self, *tasks: Task, reports: bool = False) -> list[Ticket]:
        tickets = [Ticket(one, reports=reports) for one in tasks]
        for ticket in tickets:
            self.scheduler.submit(ticket, self.now)
        self._take()
        return tickets

    def handle(self, *events: Any) -> bool:
        found = [self.scheduler.handle(event, self.now) for event in events]
        self._take()
        return all(found)

    def join(self, *names: str, **how: Any) -> None:
        self.handle(*(Joined(name, **how) for name in names))

    def wait(self, seconds: float) -> None:
        """Let time pass, with a look at each moment that the scheduler asks for."""
        until = self.now + seconds
        while self.now < until:
            due = self.scheduler.next_due(self.now)
            self.now = until if due is None else min(until, self.now + max(due, 0.001))
            self.scheduler.tick(self.now)
            self._take()

    def _take(self) -> None:
        for command in self.scheduler.take_commands():
            self.commands.append(command)
            if isinstance(command, Send):
                self.tasks[command.task.id] = command.task

    def sent(self, worker: str = "") -> list[Send]:
        return [c for c in self.commands if isinstance(c, Send) and worker in ("", c.worker)]

    def keys(self, worker: str) -> list[list[str]]:
        """The items of each delivery to a worker."""
        return [[work.item.key for work in send.task.work] for send in self.sent(worker)]

    def of(self, kind: type) -> list[Any]:
        return [command for command in self.commands if isinstance(command, kind)]

    def done(self, send: Send, place: int, failure: Failure | None = None) -> bool:
        key = send.task.work[place].item.key
        result = Result(key, failure=failure, times=Times(decode=0.01))
        return self.handle(Received(send.worker, send.task.id, place, result, f"{send.worker}/t"))

    def finish(self, send: Send) -> None:
        for place in range(len(send.task.work)):
            assert self.done(send, place)

    @property
    def outcomes(self) -> dict[int, Outcome]:
        return {command.outcome.task: command.outcome for command in self.of(Completed)}

    def failures(self, number: int) -> list[str]:
        """The kinds of failure of a task's items, empty for none."""
        return [result.failure.kind if result.failure else "" for result in self.outcomes[number].results]


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
    assert [(drop.worker, drop.delivery) for drop in world.of(Drop)] == [(slow.worker, slow.task.id)]
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
    world.now = module.LONGEST_WAIT + 1
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
