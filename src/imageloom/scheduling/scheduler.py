"""The scheduler: which worker gets which task, what was lost, what runs alone, who takes too long.

A state machine without threads, sockets or a clock: events go in with the time, commands come out. So it runs
under every engine, and under a simulated clock. A worker has deliveries, each of some items of one task, and works
on these items one after the other. A worker that dies, or is ended because of a time-out, costs an attempt of the
items in progress only; everything else that it had goes to other workers and costs nothing. An item that failed
before waits for those that did not, and runs alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from random import Random

from msgspec.structs import replace

from imageloom.model import Failure, Outcome, Result
from imageloom.scheduling.backoff import Backoff
from imageloom.scheduling.costs import Costs
from imageloom.scheduling.policies import Choice
from imageloom.scheduling.protocol import (
    Begun,
    Broken,
    Cancelled,
    Command,
    Completed,
    Died,
    Drop,
    End,
    Event,
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
from imageloom.scheduling.queue import Queue, Run
from imageloom.scheduling.rules import Rules

PATIENCE = 8.0
"""An item is slow after so many times the seconds that it should cost."""
LEAST_PATIENCE = 0.1
"""Seconds, at the least."""
START_PATIENCE = 60.0
"""Seconds that a worker may take to start."""
LONGEST_WAIT = 30.0
"""Seconds for which an item that failed before lets others go first."""
MOST_SUSPECTS = 2
"""Items that failed before which run at the same time while others wait: they may take all workers down."""
LEAST_STRAGGLE, STRAGGLE = 0.5, 2.0
"""A delivery is copied after so many seconds, at the least, and after so many times the mean of a delivery."""
TICK = 0.05
"""Seconds between two looks for what takes too long, while something is in progress."""
FIRST_BACKOFF, LONGEST_BACKOFF = 0.05, 5.0
"""Seconds before a worker that died at its start is replaced."""
NEVER = float("inf")


@dataclass(eq=False, slots=True)
class Delivery:
    """Items of a task that one worker was given."""

    number: int
    ticket: Ticket
    places: list[int]
    sent: float
    done: int = 0
    """How many of the places have their results: the next one is in progress."""
    since: float = NEVER
    """When the item in progress was begun; infinity before the first."""
    is_cut: bool = False
    """Items behind the one in progress were taken from the worker, which may not know it yet."""

    @property
    def has_begun(self) -> bool:
        return self.since < NEVER


@dataclass(eq=False, slots=True)
class Worker:
    """A worker, as the scheduler and the policies of placement see it."""

    name: str
    limit: int = 1
    """Deliveries that it works on at the same time."""
    ahead: int = 0
    load: float = 0.0
    seconds: float = 0.0
    """Mean of a delivery; 0 where none is known."""
    is_ready: bool = True
    reports_begin: bool = False
    deliveries: dict[int, Delivery] = field(default_factory=dict)
    """In the order in which they were sent."""
    reserved: deque[Run] = field(default_factory=deque)
    """What a policy has chosen it for while it had no room."""

    @property
    def in_hand(self) -> int:
        """Tasks that it has or is to have."""
        return len(self.deliveries) + len(self.reserved)

    @property
    def room(self) -> int:
        """Deliveries that it may still be given."""
        return self.limit + self.ahead - len(self.deliveries)

    @property
    def has_suspect(self) -> bool:
        return any(delivery.ticket.is_suspect for delivery in self.deliveries.values())

    def in_progress(self) -> Iterator[Delivery]:
        return (delivery for delivery in self.deliveries.values() if delivery.has_begun)

    def mark_begun(self, now: float) -> None:
        """Where it does not report what it begins: it begins what was sent first."""
        if not self.reports_begin:
            for delivery, _ in zip(self.deliveries.values(), range(self.limit), strict=False):
                if not delivery.has_begun:
                    delivery.since = now


class Scheduler:
    """The state machine. Not safe to use from several threads at once.

    Args:
        rules: bounds and habits.
        choice: a policy that chooses a worker for each task, also one without room; None for any that has room,
            the idlest first.
        random: for the policy.
        epoch: what the time of the events is to be added to, to make seconds since the epoch.
    """

    def __init__(
        self,
        rules: Rules,
        choice: Choice | None = None,
        random: Random | None = None,
        epoch: float = 0.0,
    ) -> None:
        self.rules = rules
        self._epoch = epoch
        self.costs = Costs()
        self.is_closing = False
        self._choice, self._random = choice, random or Random(0)
        self._queue = Queue()
        self._workers: dict[str, Worker] = {}
        self._commands: list[Command] = []
        self._number = 0
        """Of the latest delivery."""
        self._held = self._held_suspects = 0
        """Deliveries under way; how many of them failed before."""
        self._starting = 0
        self._backoff = Backoff(FIRST_BACKOFF, LONGEST_BACKOFF)
        self._mean = 0.0
        """Seconds of a delivery."""
        self._next_look = 0.0

    # What the engine asks

    @property
    def workers(self) -> list[Worker]:
        return list(self._workers.values())

    @property
    def capacity(self) -> int:
        """Deliveries that the workers work on at the same time."""
        return sum(worker.limit for worker in self._workers.values())

    @property
    def waiting(self) -> int:
        """Deliveries that no worker has."""
        return len(self._queue) + sum(len(worker.reserved) for worker in self._workers.values())

    @property
    def held(self) -> int:
        """Deliveries that workers have."""
        return self._held

    @property
    def is_idle(self) -> bool:
        """No worker has anything."""
        return not self._held

    @property
    def failed_starts(self) -> int:
        """Workers in a row that died before they were ready."""
        return self._backoff.failures

    def has(self, worker: str, delivery: int) -> bool:
        """Whether a worker has that delivery now."""
        known = self._workers.get(worker)
        return known is not None and delivery in known.deliveries

    def has_sent(self, delivery: int) -> bool:
        """Whether there ever was a delivery of that number."""
        return 0 < delivery <= self._number

    def deliveries(self, worker: str) -> set[int]:
        """The numbers of what a worker has."""
        known = self._workers.get(worker)
        return set(known.deliveries) if known else set()

    def next_due(self, now: float) -> float | None:
        """Seconds until `tick` has something to do; None where only an event can bring that."""
        if self._held or (self._queue.has_suspects and self._workers):
            return max(0.0, self._next_look - now)
        if self._missing > 0 and not self.is_closing:
            return max(0.0, self._backoff.until - now)
        return None

    def take_commands(self) -> list[Command]:
        """What is to be done since the last call, in this order."""
        commands, self._commands = self._commands, []
        return commands

    # What happens

    def submit(self, ticket: Ticket, now: float) -> None:
        """Take on a task."""
        places = list(range(len(ticket.task.work)))
        if places:
            self._queue.put(Run(ticket, places, now))
        elif ticket.begin():
            self._commands.append(Completed(ticket, Outcome(ticket.task.id, "", ())))
        self._assign(now)

    def handle(self, event: Event, now: float) -> bool:
        """Take in an event; False where it says nothing about what is under way, because it comes late, say."""
        if isinstance(event, Joined):
            self._join(event, now)
            return True
        worker = self._workers.get(event.worker)
        if isinstance(event, Died):
            return self._die(worker, event, now)
        if worker is None:
            return False
        if isinstance(event, Left):
            self._forget(worker)
            self._give_back_all(worker, now)
            self._assign(now)
            return True
        delivery = worker.deliveries.get(event.delivery)
        if isinstance(event, Received):
            return self._receive(worker, delivery, event, now)
        if delivery is None:
            return False
        if isinstance(event, Begun):
            if not delivery.has_begun:  # who says it again has no more time for it
                delivery.since = now
            return True
        if isinstance(event, Refused):
            self._refuse(worker, delivery, event, now)
        elif isinstance(event, Returned):
            self._give_back(worker, delivery, now)
        elif isinstance(event, Broken):
            self._break(worker, delivery, event.failure, now, event.done)
        else:
            self._finish(worker, delivery, event, now)
        self._assign(now)
        return True

    def tick(self, now: float) -> None:
        """Look at the time: end what takes too long, cut what is slow, start workers that are missing."""
        if now >= self._next_look:
            self._next_look = now + TICK
            for worker in list(self._workers.values()):
                self._look(worker, now)
        if self._missing > 0 and now >= self._backoff.until and not self.is_closing:
            for _ in range(self._missing):
                self._starting += 1
                self._commands.append(Start())
        self._assign(now)

    def close(self) -> None:
        """Begin no further task. What has begun is finished."""
        self.is_closing = True
        for run in self._take_waiting():
            if run.ticket.has_begun:
                self._queue.put(run)
            else:
                self._commands.append(Cancelled(run.ticket))

    def give_up(self, failure: Failure, now: float) -> None:
        """Fail all that no worker has: there is no worker, and there will be none."""
        for run in self._take_waiting():
            if self._may_begin(run.ticket):
                self._fail(run.ticket, run.places, failure, now)

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
                delivery.since = now
        if event.is_ready:
            self._backoff.succeed()
        worker.limit, worker.ahead, worker.load = max(1, event.slots), event.ahead, event.load
        worker.reports_begin = event.reports_begin
        worker.mark_begun(now)
        self._assign(now)

    def _forget(self, worker: Worker) -> None:
        self._workers.pop(worker.name, None)
        for run in reversed(worker.reserved):
            self._queue.put(run, first=True)
        worker.reserved.clear()

    def _die(self, worker: Worker | None, event: Died, now: float) -> bool:
        if worker is None:
            return False
        self._forget(worker)
        if not worker.is_ready:
            self._backoff.fail(now)
            self._give_back_all(worker, now)
        in_progress = list(worker.in_progress())  # each removal marks the next one as begun
        for delivery in list(worker.deliveries.values()):
            if delivery in in_progress:
                self._break(worker, delivery, event.failure, now)
            else:
                self._requeue(worker, delivery, now)
        self._assign(now)
        return True

    def _look(self, worker: Worker, now: float) -> None:
        """End a worker's item that takes too long; let others do what waits behind a slow one."""
        for delivery in list(worker.in_progress()):
            ticket, spent = delivery.ticket, now - delivery.since
            if not worker.is_ready:
                if self.rules.jobs and spent > START_PATIENCE:
                    failure = Failure("WorkerLost", f"it did not start in {START_PATIENCE:g} s", True)
                    self._commands.append(End(worker.name, delivery.number, failure))
                    self._die(worker, Died(worker.name, failure), now)
                    return
            elif self.rules.timeout and spent > self.rules.timeout:
                self._end_item(worker, delivery, now)
                if self.rules.ends == "worker":
                    return
            elif self.rules.cuts and delivery.done + 1 < len(delivery.places):
                work = ticket.task.work[delivery.places[delivery.done]]
                patience = PATIENCE * self.costs.expected(work, ticket.task)
                if spent > max(LEAST_PATIENCE, patience):
                    self._cut(worker, delivery, now)

    def _end_item(self, worker: Worker, delivery: Delivery, now: float) -> None:
        reason = f"it took more than {self.rules.timeout:g} s (--timeout)"
        failure = Failure("ItemTimeout", reason, True)
        self._commands.append(End(worker.name, delivery.number, failure))
        self._break(worker, delivery, failure, now)
        if self.rules.ends == "worker":
            self._forget(worker)
            for other in list(worker.deliveries.values()):
                self._requeue(worker, other, now)

    def _cut(self, worker: Worker, delivery: Delivery, now: float) -> None:
        """Queue again what waits behind the item in progress."""
        behind = delivery.places[delivery.done + 1 :]
        del delivery.places[delivery.done + 1 :]
        delivery.is_cut = True
        self._commands.append(Drop(worker.name, delivery.number))
        self._queue.put(Run(delivery.ticket, behind, now), first=True)

    # Deliveries

    def _receive(self, worker: Worker, delivery: Delivery | None, event: Received, now: float) -> bool:
        if delivery is None or event.place != delivery.done or delivery.done >= len(delivery.places):
            is_late = (
                self.has_sent(event.delivery)
                if delivery is None
                else event.place < delivery.done or delivery.is_cut
            )
            if not is_late and self.rules.ends_liars:
                self._refuse_liar(worker, event, now)
            return False
        ticket, place = delivery.ticket, delivery.places[delivery.done]
        work, result = ticket.task.work[place], event.result
        if result.failure is None or result.key:
            self.costs.observe(work, ticket.task, result)
        else:  # it could not be read
            result = replace(result, key=work.item.key)
        if not worker.is_ready:
            worker.is_ready = True
        delivery.done += 1
        delivery.since = now
        ticket.returns = 0
        name = event.name or worker.name
        self._settle(ticket, place, result if result.worker == name else replace(result, worker=name))
        if delivery.done == len(delivery.places):
            self._measure(worker, now - delivery.sent)
            self._remove(worker, delivery, now)
            self._complete(ticket, name)
            self._assign(now)
        elif ticket.deliveries > 1:  # the last results may have come from both
            self._complete(ticket, name)
        return True

    def _refuse_liar(self, worker: Worker, event: Received, now: float) -> None:
        reason = (
            f"worker {worker.name} sent a result that was not due: {event.place} of delivery {event.delivery}"
        )
        failure = Failure("InvalidResult", reason, True)
        self._commands.append(End(worker.name, event.delivery, failure))
        self._die(worker, Died(worker.name, failure), now)

    def _finish(self, worker: Worker, delivery: Delivery, event: Finished, now: float) -> None:
        self._give_back(worker, delivery, now)

    def _refuse(self, worker: Worker, delivery: Delivery, event: Refused, now: float) -> None:
        ticket, rules = delivery.ticket, self.rules
        if event.is_final:
            failure = Failure("TaskRefused", f"{worker.name}: {event.reason}")
            self._remove(worker, delivery, now)
            self._fail(ticket, delivery.places[delivery.done :], failure, now)
            return
        ticket.refused_by.add(worker.name)
        if ticket.refused_by >= self._workers.keys():
            ticket.refused_by.clear()
        if not event.counts:
            self._give_back(worker, delivery, now)
            return
        if ticket.must_accept:
            failure = Failure("InvalidResult", f"{worker.name} refuses what it must accept", True)
            self._remove(worker, delivery, now)
            self._fail(ticket, delivery.places[delivery.done :], failure, now)
            return
        ticket.refusals += 1
        if rules.refusals and ticket.refusals >= rules.refusals:
            ticket.must_accept = rules.falls_back
            if not rules.falls_back:
                reason = (
                    f"workers refused it {ticket.refusals} times: {event.reason} "
                    "(in the file of nodes: rejections, fallback: mandatory)"
                )
                self._remove(worker, delivery, now)
                self._fail(ticket, delivery.places[delivery.done :], Failure("TaskRejected", reason), now)
                return
        self._requeue(worker, delivery, now)

    def _give_back(self, worker: Worker, delivery: Delivery, now: float) -> None:
        """Queue again what is left of a delivery; too often without a result, and its next item is charged."""
        ticket = delivery.ticket
        ticket.returns += 1
        if ticket.returns > self.rules.returns:
            times, ticket.returns = ticket.returns, 0
            reason = f"workers gave it back {times} times without a result, the last one {worker.name}"
            self._break(worker, delivery, Failure("WorkerLost", reason, True), now)
        else:
            self._requeue(worker, delivery, now)

    def _give_back_all(self, worker: Worker, now: float) -> None:
        for delivery in list(worker.deliveries.values()):
            self._give_back(worker, delivery, now)

    def _break(self, worker: Worker, delivery: Delivery, failure: Failure, now: float, done: int = 0) -> None:
        """Charge the item in progress, and queue again what else is left of a delivery."""
        ticket = delivery.ticket
        left = delivery.places[delivery.done :]
        self._remove(worker, delivery, now)
        ticket.was_lost = True
        at = left[min(max(0, done - delivery.done), len(left) - 1)]
        if at not in self._places_elsewhere(ticket):
            spent = now - delivery.since if delivery.has_begun else 0.0
            self._fail(ticket, [at], failure, now, worker.name, spent)
        self._put_back(ticket, left, now)

    def _requeue(self, worker: Worker, delivery: Delivery, now: float) -> None:
        self._remove(worker, delivery, now)
        self._put_back(delivery.ticket, delivery.places[delivery.done :], now)

    def _put_back(self, ticket: Ticket, places: list[int], now: float) -> None:
        """Queue items again, unless they have their results or another worker has them."""
        elsewhere = self._places_elsewhere(ticket)
        left = [place for place in places if place not in ticket.results and place not in elsewhere]
        if left:
            self._queue.put(Run(ticket, left, now), first=True)

    def _places_elsewhere(self, ticket: Ticket) -> set[int]:
        """Places of a task that deliveries bring: of a copy, or of what was taken from a slow worker."""
        if not ticket.deliveries:
            return set()
        return {
            place
            for worker in self._workers.values()
            for delivery in worker.deliveries.values()
            if delivery.ticket is ticket
            for place in delivery.places[delivery.done :]
        }

    def _remove(self, worker: Worker, delivery: Delivery, now: float) -> None:
        del worker.deliveries[delivery.number]
        self._held -= 1
        self._held_suspects -= delivery.ticket.is_suspect
        delivery.ticket.deliveries -= 1
        worker.mark_begun(now)

    def _measure(self, worker: Worker, seconds: float) -> None:
        worker.seconds += (seconds - worker.seconds) * (0.2 if worker.seconds else 1.0)
        self._mean += (seconds - self._mean) * (0.1 if self._mean else 1.0)

    # Results

    def _settle(self, ticket: Ticket, place: int, result: Result) -> None:
        if place not in ticket.results:  # the first one counts
            ticket.results[place] = result
            if ticket.reports:
                self._commands.append(Progress(ticket, place, result))

    def _fail(
        self,
        ticket: Ticket,
        places: Iterable[int],
        failure: Failure,
        now: float,
        worker: str = "",
        spent: float = 0.0,
    ) -> None:
        for place in places:
            key = ticket.task.work[place].item.key
            began = self._epoch + now - spent
            self._settle(
                ticket, place, Result(key, failure=failure, started=began, lost=spent, worker=worker)
            )
        self._complete(ticket, worker)

    def _complete(self, ticket: Ticket, worker: str) -> None:
        """Report a task that has all its results; whoever still works on it need not."""
        if ticket.is_over or len(ticket.results) < len(ticket.task.work):
            return
        ticket.is_over = True
        ordered = tuple(ticket.results[place] for place in range(len(ticket.task.work)))
        self._commands.append(Completed(ticket, Outcome(ticket.task.id, worker, ordered)))
        if ticket.deliveries:
            for other in self._workers.values():
                for delivery in other.deliveries.values():
                    if delivery.ticket is ticket:
                        delivery.is_cut = True
                        self._commands.append(Drop(other.name, delivery.number))

    # Assignment

    def _may_begin(self, ticket: Ticket) -> bool:
        if not ticket.has_begun:
            ticket.has_begun = ticket.begin()
            if not ticket.has_begun:
                self._commands.append(Cancelled(ticket))
        return ticket.has_begun

    def _take_waiting(self) -> list[Run]:
        runs = [run for worker in self._workers.values() for run in worker.reserved]
        for worker in self._workers.values():
            worker.reserved.clear()
        return [*runs, *self._queue.clear()]

    def _assign(self, now: float) -> None:
        """Give the workers what they have room for."""
        if self._choice is not None:
            self._place(self._choice, now)
        while len(self._queue):
            worker = self._idlest()
            run = self._next(worker, now) if worker else None
            if worker is None or run is None:
                return
            self._send(worker, run, now)
        if self.rules.copies:
            self._copy(now)

    def _has_room(self, worker: Worker) -> bool:
        return worker.room > 0 and not (
            self._held_suspects and self.rules.isolation == "worker" and worker.has_suspect
        )

    def _idlest(self) -> Worker | None:
        with_room = [worker for worker in self._workers.values() if self._has_room(worker)]
        return min(with_room, key=lambda worker: worker.in_hand / worker.limit, default=None)

    def _next(self, worker: Worker, now: float) -> Run | None:
        """The next run for the idlest worker: suspects after all others, or a few that have waited long."""
        queue, isolation = self._queue, self.rules.isolation
        if isolation == "engine" and self._held_suspects:
            return None
        if queue.has_suspects:
            has_waited = now - queue.suspect_waits_since() > LONGEST_WAIT
            fresh = queue.has_fresh or any(other.reserved for other in self._workers.values())
            if isolation == "engine":
                if has_waited or not fresh:
                    return None if self._held else queue.pop_suspect()
            elif isolation == "none" or not worker.deliveries:
                are_last = not fresh and self._held == self._held_suspects
                if are_last or (has_waited and self._held_suspects < MOST_SUSPECTS):
                    return queue.pop_suspect()
        return queue.pop_fresh() if queue.has_fresh and self._choice is None else None

    def _send(self, worker: Worker, run: Run, now: float) -> None:
        ticket = run.ticket
        places = [place for place in run.places if place not in ticket.results]
        if not places or not self._may_begin(ticket):
            return
        self._number += 1
        ahead = sum(len(other.places) - other.done for other in worker.deliveries.values())
        worker.deliveries[self._number] = Delivery(self._number, ticket, places, now)
        worker.mark_begun(now)
        self._held += 1
        self._held_suspects += ticket.is_suspect
        ticket.deliveries += 1
        work = ticket.task.work
        if len(places) < len(work):
            work = tuple(work[place] for place in places)
        task = replace(ticket.task, id=self._number, work=work)
        self._commands.append(Send(worker.name, task, ticket.must_accept, ahead))
        if not self._held - 1:
            self._next_look = now + TICK

    def _place(self, choice: Choice, now: float) -> None:
        """Choose workers for what waits, as long as one has room; then send what they have room for."""
        workers = list(self._workers.values())
        most = 2 * sum(worker.limit for worker in workers)
        dealt = sum(worker.in_hand for worker in workers)
        while (
            self._queue.has_fresh
            and dealt < most
            and any(w.in_hand < w.limit + w.ahead for w in workers)
            and not (self.rules.isolation == "engine" and self._held_suspects)
        ):
            run = self._queue.pop_fresh()
            chosen = choice.choose(workers, run.ticket.refused_by, self._random)
            self._workers[chosen.name].reserved.append(run)
            dealt += 1
        for worker in workers:
            while worker.reserved and self._has_room(worker):
                self._send(worker, worker.reserved.popleft(), now)

    def _copy(self, now: float) -> None:
        """Give an idle worker what another one is slow with."""
        limit = now - max(LEAST_STRAGGLE, STRAGGLE * self._mean)
        for worker in list(self._workers.values()):
            if worker.reserved or not self._has_room(worker):
                continue
            slow = [
                (delivery.since, delivery.number, delivery.ticket)
                for other in self._workers.values()
                if other is not worker
                for delivery in other.in_progress()
                if delivery.since < limit
                and delivery.ticket.deliveries == 1
                and not delivery.ticket.was_lost
                and not delivery.ticket.is_suspect
                and worker.name not in delivery.ticket.refused_by
            ]
            if slow:
                ticket = min(slow, key=lambda found: found[:2])[2]
                self._send(worker, Run(ticket, ticket.missing, now), now)
