"""Simulated histories: driver, scheduler and ledger among workers that die, hang, lie and are cut off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from imageloom.driver.window import Retries, Window
from imageloom.model import Failure, Work
from imageloom.records.ledger import Ledger
from imageloom.scheduling.protocol import Received, Ticket
from imageloom.scheduling.scheduler import Scheduler
from imageloom.scheduling.tickets import Tickets
from imageloom.scheduling.workers import Delivery, Worker
from imageloom.testing.simulation.coverage import RARE, missing, table
from imageloom.testing.simulation.many import one, run_all, run_some

SEEDS = 2000
FIRST_SEEDS = 100
"""Among which each planted fault is found, most of them by the first one."""

Patch = pytest.MonkeyPatch


@pytest.mark.timeout(900)
def test_every_history_keeps_to_the_laws() -> None:
    found = run_all(range(SEEDS), jobs=2)
    assert not found.broken, (
        f"python -m imageloom.testing.simulation --seed {found.broken[0][0]}: {found.broken}"
    )
    assert found.histories == SEEDS
    assert found.least_faults >= 5
    assert set(missing(found.seen)) <= RARE, table(found.seen)


@pytest.mark.long
@pytest.mark.timeout(0)
def test_very_many_histories_keep_to_the_laws() -> None:
    found = run_all(range(SEEDS, 200_000), jobs=2)
    assert not found.broken, (
        f"python -m imageloom.testing.simulation --seed {found.broken[0][0]}: {found.broken}"
    )


def test_a_seed_has_one_history() -> None:
    first, second = one(7), one(7)
    assert first.log == second.log
    assert len(first.log) > 200
    assert first.actions == second.actions


# Faults that are planted, each by another rule


def charge_the_next_item(patch: Patch) -> None:
    def fail(self: Tickets, ticket: Ticket, places: list[int], *more: Any, **named: Any) -> None:
        others = [place for place in ticket.missing if place not in places]
        original(self, ticket, others[:1] or places, *more, **named)

    original = Tickets.fail
    patch.setattr(Tickets, "fail", fail)


def charge_all_of_a_dead_worker(patch: Patch) -> None:
    patch.setattr(Worker, "in_progress", lambda self: iter(self.deliveries.values()))


def forget_what_is_behind(patch: Patch) -> None:
    patch.setattr(Scheduler, "_put_back", lambda *_: None)


def forget_what_is_cut_off(patch: Patch) -> None:
    """Only what is left of deliveries that are the last ones of their tasks is queued again."""
    everything = set(range(100))
    patch.setattr(
        Tickets, "places_elsewhere", lambda self, ticket: everything if ticket.deliveries else set()
    )


def accept_late_results(patch: Patch) -> None:
    def receive(
        self: Scheduler, worker: Worker, delivery: Delivery | None, event: Received, now: float
    ) -> bool:
        if delivery is None and (ticket := tickets.get(event.delivery)):
            place = next((p for p, w in enumerate(ticket.task.work) if w.item.key == event.result.key), None)
            if place is not None:
                self._tickets.record(ticket, place, event.result)
                self._tickets.complete(ticket, worker.name)
        elif delivery is not None:
            tickets[delivery.number] = delivery.ticket
        return original(self, worker, delivery, event, now)

    tickets: dict[int, Ticket] = {}
    original = Scheduler._receive
    patch.setattr(Scheduler, "_receive", receive)


def complete_twice(patch: Patch) -> None:
    def complete(self: Tickets, ticket: Ticket, worker: str) -> None:
        if ticket.is_over:
            ticket.is_over = False
        original(self, ticket, worker)

    original = Tickets.complete
    patch.setattr(Tickets, "complete", complete)


def ignore_time_outs(patch: Patch) -> None:
    patch.setattr(Scheduler, "_end", lambda *_: None)


def leave_out_what_is_in_progress(patch: Patch) -> None:
    def cut_short(self: Scheduler, ticket: Ticket, now: float) -> None:
        ticket.is_cut_short = True
        self._tickets.left_out(ticket, ticket.missing, now)

    patch.setattr(Scheduler, "cut_short", cut_short)


def leave_out_without_a_stop(patch: Patch) -> None:
    """What is behind a slow item is left out."""

    def cut(self: Scheduler, worker: Worker, delivery: Delivery, now: float) -> None:
        delivery.ticket.is_cut_short = True
        places = self._drop_behind(worker, delivery)
        self._tickets.left_out(delivery.ticket, places, now)

    patch.setattr(Scheduler, "_cut", cut)


def count_a_return_as_an_attempt(patch: Patch) -> None:
    def give_back(self: Scheduler, worker: Worker, delivery: Delivery, now: float) -> None:
        self._break(worker, delivery, Failure("WorkerLost", "it came back", True), now)

    patch.setattr(Scheduler, "_give_back", give_back)


def let_a_suspect_share_its_worker(patch: Patch) -> None:
    patch.setattr(Worker, "has_suspect", False)


def start_too_many_workers(patch: Patch) -> None:
    """Those that are starting are not counted."""
    patch.setattr(Scheduler, "_missing", property(lambda self: self.rules.jobs - len(self._workers)))


def replace_without_a_pause(patch: Patch) -> None:
    patch.setattr("imageloom.scheduling.backoff.Backoff.fail", lambda *_: 0.0)


def lose_a_retry(patch: Patch) -> None:
    def add(self: Retries, work: Work, *more: Any) -> float:
        return original(self, work, *more) if work.attempt == 1 else 1.0

    original = Retries.add
    patch.setattr(Retries, "add", add)


def try_again_at_once(patch: Patch) -> None:
    patch.setattr(Retries, "due", lambda self: iter([self._waiting.pop()[2] for _ in list(self._waiting)]))


def let_all_into_the_window(patch: Patch) -> None:
    patch.setattr(Window, "is_full", lambda *_: False)


def ignore_the_memory(patch: Patch) -> None:
    def is_full(self: Window, capacity: int, needs: int) -> bool:
        return original(self, capacity, -(10**15))

    original = Window.is_full
    patch.setattr(Window, "is_full", is_full)


def publish_without_a_claim(patch: Patch) -> None:
    patch.setattr(Ledger, "has_claims", False)


def forget_what_is_done(patch: Patch) -> None:
    def record_done(self: Ledger, job: int, sink: str, result: Any, *more: Any) -> None:
        original(self, job, sink, result, *more)
        self._done.clear()

    original = Ledger.record_done
    patch.setattr(Ledger, "record_done", record_done)


def forget_what_was_noted(patch: Patch) -> None:
    """A transaction of more than one item writes down the first one."""

    def flush(self: Ledger) -> None:
        del self._items[1:]
        original(self)

    original = Ledger.flush
    patch.setattr(Ledger, "flush", flush)


PLANTED: list[Callable[[Patch], None]] = [
    charge_the_next_item,
    charge_all_of_a_dead_worker,
    forget_what_is_behind,
    forget_what_is_cut_off,
    accept_late_results,
    complete_twice,
    ignore_time_outs,
    leave_out_what_is_in_progress,
    leave_out_without_a_stop,
    count_a_return_as_an_attempt,
    let_a_suspect_share_its_worker,
    start_too_many_workers,
    replace_without_a_pause,
    lose_a_retry,
    try_again_at_once,
    let_all_into_the_window,
    ignore_the_memory,
    publish_without_a_claim,
    forget_what_is_done,
    forget_what_was_noted,
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_fault_is_found(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    plant(monkeypatch)
    assert run_some(range(FIRST_SEEDS), most_broken=1).broken
