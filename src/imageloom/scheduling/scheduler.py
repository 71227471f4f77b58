"""The scheduler: assigns tasks to workers, and handles deaths, time-outs, retries and stragglers.

A state machine without threads, sockets or a clock: its input is events with the time, its output is commands. So
it runs under every engine, and under a simulated clock. A worker has deliveries, each with some items of one task,
and processes these items in order. If a worker dies, or is ended because of a time-out, only its items in progress
are charged an attempt. Its other items go to other workers and are not charged. An item with a failed attempt is a
suspect: it waits behind other items, and runs alone.
"""

from __future__ import annotations

from random import Random

from msgspec.structs import replace

from imageloom.errors import InvalidResult, ItemTimeout, WorkerLost
from imageloom.model import Failure, Outcome
from imageloom.scheduling.backoff import Backoff
from imageloom.scheduling.costs import Costs
from imageloom.scheduling.placement import Placement
from imageloom.scheduling.policies import Choice
from imageloom.scheduling.protocol import (
    Begun,
    Broken,
    Command,
    Completed,
    Died,
    Drop,
    End,
    Event,
    Joined,
    Left,
    Paused,
    Received,
    Refused,
    Send,
    Start,
    Ticket,
)
from imageloom.scheduling.queue import Queue, Run
from imageloom.scheduling.rules import Rules
from imageloom.scheduling.tickets import Tickets
from imageloom.scheduling.workers import NEVER, Delivery, Worker
from imageloom.worker.sandbox import time_limit

PATIENCE = 8.0
"""An item is slow after this multiple of its expected time."""
LEAST_PATIENCE = 0.1
"""Minimum time after which an item is slow, in seconds."""
START_PATIENCE, TICK = 60.0, 0.05
"""Seconds: time-out of a worker's start; between two checks for time-outs and slow items."""
FIRST_BACKOFF, LONGEST_BACKOFF = 0.05, 5.0
"""First and longest pause before a worker that died at its start is replaced, in seconds."""


class Scheduler:
    """The state machine. It is not thread-safe.

    Args:
        rules: its settings.
        choice: a policy that chooses a worker for each task, even a worker without a free slot. None: any worker
            with a free slot, the one with the fewest deliveries first.
        random: for the policy.
        epoch: added to the time of an event, it gives seconds since the Unix epoch.
    """

    def __init__(
        self, rules: Rules, choice: Choice | None = None, random: Random | None = None, epoch: float = 0.0
    ) -> None:
        self.rules = rules
        self.costs = Costs()
        self.is_closing = False
        self._queue = Queue()
        self._workers: dict[str, Worker] = {}
        self._placement = Placement(rules, self._queue, self._workers, choice, random or Random(0))
        self._commands: list[Command] = []
        self._tickets = Tickets(self._workers, self._commands.append, epoch)
        self._number = 0  # of the latest delivery
        self._starting = 0
        self._backoff = Backoff(FIRST_BACKOFF, LONGEST_BACKOFF)
        self._next_check = 0.0

    # Queries of the engine

    @property
    def workers(self) -> list[Worker]:
        return list(self._workers.values())

    @property
    def capacity(self) -> int:
        """Number of deliveries that the workers process at the same time."""
        return sum(worker.limit for worker in self.workers)

    @property
    def waiting(self) -> int:
        """Number of deliveries that wait for a worker."""
        return len(self._queue) + sum(len(worker.reserved) for worker in self._workers.values())

    @property
    def held(self) -> int:
        """Number of deliveries that workers have."""
        return self._placement.held

    @property
    def is_idle(self) -> bool:
        """Whether no worker has a delivery."""
        return not self._placement.held

    def has_sent(self, delivery: int) -> bool:
        """Whether a delivery with this number was ever sent."""
        return 0 < delivery <= self._number

    def deliveries(self, worker: str) -> set[int]:
        """The numbers of a worker's deliveries."""
        return set(self._workers[worker].deliveries) if worker in self._workers else set()

    def next_due(self, now: float) -> float | None:
        """Seconds until `tick` must be called; None if only an event can require it."""
        if self._placement.held or (self._queue.has_suspects and self._workers):
            return max(0.0, self._next_check - now)
        if self._missing > 0 and not self.is_closing:
            return max(0.0, self._backoff.until - now)
        return None

    def take_commands(self) -> list[Command]:
        """The commands since the last call, in their order."""
        commands = self._commands.copy()
        self._commands.clear()
        return commands

    # Inputs

    def submit(self, ticket: Ticket, now: float) -> None:
        """Accept a task."""
        places = list(range(len(ticket.task.work)))
        if places:
            for run in [[place] for place in places] if self.rules.splits else [places]:
                self._queue.put(Run(ticket, run, now))
        elif ticket.begin():
            self._commands.append(Completed(ticket, Outcome(ticket.task.id, "", ())))
        self._assign(now)

    def handle(self, event: Event, now: float) -> bool:
        """Handle an event. Returns False if it concerns nothing in flight, for example because it is late."""
        if isinstance(event, Joined):
            self._join(event, now)
            return True
        if isinstance(event, (Left, Died)):
            return self._lose(event, now)
        worker = self._workers.get(event.worker)
        if worker is None:
            return False
        delivery = worker.deliveries.get(event.delivery)
        if isinstance(event, Received):
            return self._receive(worker, delivery, event, now)
        if delivery is None:
            return False
        if isinstance(event, Begun):
            delivery.begin(now - event.ago)
            return True
        if isinstance(event, Paused):
            delivery.since = NEVER
            return True
        if isinstance(event, Refused):
            self._refuse(worker, delivery, event, now)
        elif isinstance(event, Broken) and event.done < len(delivery.places):
            self._break(worker, delivery, event.failure, now, event.done)
        else:  # it is not in progress
            self._give_back(worker, delivery, now)
        self._assign(now)
        return True

    def tick(self, now: float) -> None:
        """Handle the time: end items after their time-out, cut slow deliveries, start workers."""
        if now >= self._next_check:
            self._next_check = now + TICK
            for worker in list(self._workers.values()):
                self._check_worker(worker, now)
        if self._missing > 0 and now >= self._backoff.until and not self.is_closing:
            for _ in range(self._missing):
                self._starting += 1
                self._commands.append(Start())
        self._assign(now)

    def abandon(self, ticket: Ticket, now: float) -> None:
        """End the items in progress of a task whose results are no longer needed. Its items fail."""
        failure = Failure("WorkerLost", "its result is no longer needed", True)
        self._tickets.fail(ticket, ticket.missing, failure, now)
        for worker, delivery in [(w, d) for w in self.workers for d in w.in_progress()]:
            if delivery.ticket is ticket and delivery.number in worker.deliveries:
                self._end(worker, delivery, failure, now)
        self._assign(now)

    def cut_short(self, ticket: Ticket, now: float) -> None:
        """Finish only the items in progress of a task that has begun. Its other items fail as `NotBegun`."""
        ticket.is_cut_short = True
        begun: set[int] = set()
        for worker, delivery in [(w, d) for w in self.workers for d in w.deliveries.values()]:
            if delivery.ticket is ticket:
                is_coming = self.rules.jobs and not worker.is_ready
                if is_coming or (worker.reports_begin and not delivery.has_begun):
                    self._commands.append(Drop(worker.name, delivery.number))
                    self._remove(worker, delivery, now)  # a late result is ignored
                    continue
                if self.rules.cuts and delivery.done + 1 < len(delivery.places):
                    self._drop_behind(worker, delivery)
                begun.update(delivery.places[delivery.done :])
        self._tickets.left_out(ticket, [at for at in ticket.missing if at not in begun], now)
        self._assign(now)

    def close(self) -> None:
        """Send no further task. Deliveries that have begun are finished."""
        self.is_closing = True
        for run in self._placement.take_waiting():
            if run.ticket.has_begun:
                self._queue.put(run)
            else:
                self._tickets.cancel(run.ticket)

    def give_up(self, failure: Failure, now: float) -> None:
        """Fail all items that no worker has, because no worker will be available."""
        for run in self._placement.take_waiting():
            if self._tickets.may_begin(run.ticket):
                self._tickets.fail(run.ticket, run.places, failure, now)

    # Workers

    @property
    def _missing(self) -> int:
        return self.rules.jobs - len(self._workers) - self._starting if self.rules.jobs else 0

    def _join(self, event: Joined, now: float) -> None:
        worker = self._workers.get(event.worker)
        if worker is None:
            worker = self._workers[event.worker] = Worker(event.worker, is_ready=event.is_ready)
            self._starting = max(0, self._starting - 1)
        elif event.is_ready and not worker.is_ready:
            worker.is_ready = True
            for delivery in worker.in_progress():
                delivery.began = delivery.since = now
        if event.is_ready:
            self._backoff.succeed()
        worker.limit, worker.load = max(0, event.slots), event.load
        worker.reports_begin = event.reports_begin
        if not self.rules.brief:
            worker.ahead = event.ahead
        if not worker.limit:
            self._placement.unreserve(worker)
        worker.mark_begun(now)
        self._assign(now)

    def _forget(self, worker: Worker) -> None:
        self._workers.pop(worker.name, None)
        worker.limit = 0  # it gets nothing more
        self._placement.unreserve(worker)

    def _lose(self, event: Left | Died, now: float) -> bool:
        """Remove the lost workers, charge their items in progress, and queue the other items again."""
        gone = [self._workers[name] for name in (event.worker, *event.others) if name in self._workers]
        for worker in gone:
            self._forget(worker)
            if isinstance(event, Died) and worker.name == event.worker and not worker.is_ready:
                self._backoff.fail(now)
        held = [(delivery, worker) for worker in gone for delivery in worker.deliveries.values()]
        for delivery, worker in sorted(held, key=lambda pair: -pair[0].number):
            self._take_back(worker, delivery, event, now)
        self._assign(now)
        return bool(gone)

    def _take_back(self, worker: Worker, delivery: Delivery, event: Left | Died, now: float) -> None:
        is_named, in_doubt = worker.name == event.worker, not event.worker and delivery.has_begun
        if isinstance(event, Left) or (is_named and not worker.is_ready):
            self._give_back(worker, delivery, now)
        elif (is_named and delivery.has_begun) or (in_doubt and delivery.is_suspect):
            self._break(worker, delivery, event.failure, now)
        else:
            self._requeue(worker, delivery, now, is_suspect=in_doubt)

    def _check_worker(self, worker: Worker, now: float) -> None:
        """End items after their time-out, and let other workers process what waits behind a slow item."""
        for delivery in list(worker.in_progress()):
            ticket, spent = delivery.ticket, now - delivery.since
            if not worker.is_ready:
                if self.rules.jobs and spent > START_PATIENCE:
                    failure = Failure.of(WorkerLost(f"it did not start within {START_PATIENCE:g} s"))
                    self._commands.append(End(worker.name, delivery.number, failure))
                    self._lose(Died(worker.name, failure), now)
                    return
            elif self.rules.timeout and spent > time_limit(ticket.task, delivery.work, self.rules.timeout):
                reason = f"it took more than {self.rules.timeout:g} s (--timeout)"
                self._end(worker, delivery, Failure.of(ItemTimeout(reason)), now)
                if self.rules.ends == "worker":
                    return
            elif self.rules.cuts and delivery.done + 1 < len(delivery.places):
                patience = PATIENCE * self.costs.expected(delivery.work, ticket.task)
                if spent > max(LEAST_PATIENCE, patience):
                    self._cut(worker, delivery, now)

    def _end(self, worker: Worker, delivery: Delivery, failure: Failure, now: float) -> None:
        """End a delivery, and charge its item in progress."""
        self._commands.append(End(worker.name, delivery.number, failure))
        if self.rules.ends == "worker":
            self._forget(worker)
            for other in reversed(list(worker.deliveries.values())):
                if other is not delivery:
                    self._requeue(worker, other, now)
        self._break(worker, delivery, failure, now)

    def _cut(self, worker: Worker, delivery: Delivery, now: float) -> None:
        """Queue again the items behind the item in progress."""
        self._queue.put(Run(delivery.ticket, self._drop_behind(worker, delivery), now), first=True)

    def _drop_behind(self, worker: Worker, delivery: Delivery) -> list[int]:
        """Drop the items behind the item in progress. Returns their positions."""
        behind = delivery.places[delivery.done + 1 :]
        del delivery.places[delivery.done + 1 :]
        delivery.is_cut = True
        self._commands.append(Drop(worker.name, delivery.number, delivery.done + 1))
        return behind

    # Deliveries

    def _receive(self, worker: Worker, delivery: Delivery | None, event: Received, now: float) -> bool:
        if delivery is None or event.place != delivery.done or delivery.done >= len(delivery.places):
            self._refuse_result(worker, delivery, event, now)
            return False
        ticket, place = delivery.ticket, delivery.places[delivery.done]
        work, result = ticket.task.work[place], event.result
        if result.failure is None or result.key:
            self.costs.observe(work, ticket.task, result)
        else:  # the result could not be decoded
            result = replace(result, key=work.item.key)
        worker.is_ready = True
        delivery.begin(now)
        delivery.done += 1
        delivery.since = now
        ticket.returns = 0
        name = event.name or worker.name
        self._tickets.record(ticket, place, result if result.worker == name else replace(result, worker=name))
        if delivery.done == len(delivery.places):
            self._placement.note_complete(worker, now - delivery.began)
            self._remove(worker, delivery, now)
            self._tickets.complete(ticket, name)
            self._assign(now)
        elif ticket.deliveries > 1:  # the last results may have come from both
            self._tickets.complete(ticket, name)
        return True

    def _refuse_result(self, worker: Worker, delivery: Delivery | None, event: Received, now: float) -> None:
        """End a worker that sends a result which was not due, unless it is late."""
        if delivery is None:
            is_late = self.has_sent(event.delivery)
        else:
            is_late = event.place < delivery.done or delivery.is_cut
        if is_late or not self.rules.ends_liars:
            return
        reason = f"sent an unexpected result: item {event.place} of delivery {event.delivery}"
        failure = Failure.of(InvalidResult(f"worker {worker.name} {reason}"))
        self._commands.append(End(worker.name, event.delivery, failure))
        self._lose(Died(worker.name, failure), now)

    def _refuse(self, worker: Worker, delivery: Delivery, event: Refused, now: float) -> None:
        ticket = delivery.ticket
        if failure := self._tickets.refuse(ticket, event, self.rules):
            self._remove(worker, delivery, now)
            self._tickets.fail(ticket, delivery.places[delivery.done :], failure, now)
        elif event.counts or event.is_final:  # which have bounds of their own
            self._requeue(worker, delivery, now)
        else:
            self._give_back(worker, delivery, now)

    def _give_back(self, worker: Worker, delivery: Delivery, now: float) -> None:
        """Queue again the rest of a delivery. If that happens too often without a result, charge its next item."""
        ticket = delivery.ticket
        ticket.returns += 1
        if ticket.returns > self.rules.returns:
            times, ticket.returns = ticket.returns, 0
            reason = f"workers returned it {times} times without a result; the last one was {worker.name}"
            self._break(worker, delivery, Failure.of(WorkerLost(reason)), now)
        else:
            self._requeue(worker, delivery, now)

    def _break(self, worker: Worker, delivery: Delivery, failure: Failure, now: float, done: int = 0) -> None:
        """Charge the item in progress, and queue again the rest of a delivery."""
        ticket = delivery.ticket
        left = delivery.places[delivery.done :]
        self._remove(worker, delivery, now)
        ticket.was_lost = True
        at = left[min(max(0, done - delivery.done), len(left) - 1)]
        if at not in self._tickets.places_elsewhere(ticket):
            spent = now - delivery.since if delivery.has_begun else 0.0
            self._tickets.fail(ticket, [at], failure, now, worker.name, spent)
        self._put_back(ticket, left, now)

    def _requeue(self, worker: Worker, delivery: Delivery, now: float, is_suspect: bool = False) -> None:
        self._remove(worker, delivery, now)
        left = delivery.places[delivery.done :]
        self._put_back(delivery.ticket, left, now, is_suspect or delivery.is_suspect)

    def _put_back(self, ticket: Ticket, places: list[int], now: float, is_suspect: bool = False) -> None:
        """Queue items again, unless they have results or another worker has them."""
        elsewhere = self._tickets.places_elsewhere(ticket)
        left = [place for place in places if place not in ticket.results and place not in elsewhere]
        if left and not self._tickets.left_out(ticket, left, now):
            self._queue.put(Run(ticket, left, now, is_suspect), first=True)

    def _remove(self, worker: Worker, delivery: Delivery, now: float) -> None:
        del worker.deliveries[delivery.number]
        self._placement.note_removed(delivery)
        delivery.ticket.deliveries -= 1
        worker.mark_begun(now)

    # Assignment

    def _assign(self, now: float) -> None:
        """Send waiting items to workers with free slots."""
        while found := self._placement.next(now):
            self._send(*found, now)

    def _send(self, worker: Worker, run: Run, now: float) -> None:
        ticket = run.ticket
        places = [place for place in run.places if place not in ticket.results]
        if not places or not self._tickets.may_begin(ticket):
            return
        if self.is_idle:
            self._next_check = now + TICK
        self._number += 1
        ahead = sum(len(other.places) - other.done for other in worker.deliveries.values())
        delivery = worker.deliveries[self._number] = Delivery(
            self._number, ticket, places, is_suspect=run.is_suspect
        )
        worker.mark_begun(now)
        self._placement.note_sent(delivery)
        ticket.deliveries += 1
        work = ticket.task.work
        if len(places) < len(work):
            work = tuple(work[place] for place in places)
        task = replace(ticket.task, id=self._number, work=work)
        self._commands.append(Send(worker.name, task, ticket.must_accept, ahead))
