"""The laws of the scheduler, checked at every event and command against a separate record.

The record is built from the same events and commands that the scheduler handles, following only the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from imageloom.errors import NotBegun
from imageloom.model import Result, Work
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
from imageloom.scheduling.rules import Rules

MOST_ATTEMPTS = 3
FIRST_BACKOFF = 0.05
"""First pause before a worker that could not start is replaced, in seconds. It doubles each time."""
Attempt = tuple[int, int]
"""The number of an item in its run, and the number of the attempt."""
DEATHS = ("died", "ended", "broken", "took too long")
"""Reasons for which an item in progress may be charged."""
OURS = ("WorkerLost", "ItemTimeout", "InvalidResult", "TaskRefused", "TaskRejected")


class LawBroken(BaseException):
    """A law is broken. This ends the history."""


def attempt_of(work: Work) -> Attempt:
    return work.number, work.attempt


@dataclass
class SentDelivery:
    """The recorded state of a delivery."""

    number: int
    work: list[Work]
    done: int = 0
    has_begun: bool = False
    since: float = 0.0

    @property
    def is_suspect(self) -> bool:
        return any(work.attempt > 1 for work in self.work)

    @property
    def current(self) -> list[Attempt]:
        """The item in progress, if any."""
        return [attempt_of(work) for work in self.work[self.done : self.done + 1]]

    @property
    def left(self) -> list[Attempt]:
        return [attempt_of(work) for work in self.work[self.done :]]


@dataclass
class KnownWorker:
    """The recorded state of a worker."""

    slots: int = 1
    ahead: int = 0
    is_ready: bool = False
    reports_begin: bool = False
    deliveries: dict[int, SentDelivery] = field(default_factory=dict)

    def mark(self, now: float) -> None:
        """Without reports of the begin, the first deliveries count as begun."""
        if not self.reports_begin:
            for delivery in list(self.deliveries.values())[: self.slots]:
                if not delivery.has_begun:
                    delivery.has_begun, delivery.since = True, now


class SchedulerLaws:
    """The laws of one engine.

    Args:
        reports_begin: whether workers report the begin of deliveries.
        broken: called with a description of each broken law.
    """

    def __init__(self, rules: Rules, reports_begin: bool, broken: Callable[[str], None]) -> None:
        self._rules, self._reports_begin = rules, reports_begin
        self._broken = broken
        self.workers: dict[str, KnownWorker] = {}
        self.accepted: dict[Attempt, Result] = {}
        """The valid results that workers have reported."""
        self.begun: set[Attempt] = set()
        """Attempts that a worker has really begun, whether or not it was reported."""
        self.cancelled: set[Attempt] = set()
        """Attempts of tasks that the driver cancelled before they began."""
        self._cut_short: set[Attempt] = set()
        """Attempts of tasks of which only the items in progress are wanted."""
        self._starting = 0
        self._failed_starts, self._start_after = 0, 0.0
        self._may_charge: dict[Attempt, str] = {}
        """Attempts that may be charged because of the current event."""
        self._task_of: dict[Attempt, int] = {}
        self._returns: dict[int, int] = {}
        """Number of returns of each task since its last result."""
        self._refusals: dict[int, int] = {}
        self._ended: set[Attempt] = set()
        self._tickets: dict[int, Ticket] = {}
        self._now = 0.0

    def submitted(self, ticket: Ticket) -> None:
        self._tickets[id(ticket)] = ticket
        self._task_of.update({attempt_of(work): ticket.task.id for work in ticket.task.work})

    def cut_short(self, ticket: Ticket) -> None:
        """Only the items in progress of this task are wanted."""
        self._cut_short.update(map(attempt_of, ticket.task.work))

    # Events

    def event(self, event: Event, now: float) -> None:
        """Check an event before the scheduler handles it."""
        self._may_charge.clear()
        self._now = now
        if isinstance(event, Joined):
            self._join(event)
            return
        worker = self.workers.get(event.worker)
        if worker is None:
            return
        if isinstance(event, Died):
            self._lose(event.worker, "died")
        elif isinstance(event, Left):
            del self.workers[event.worker]
            for each in worker.deliveries.values():
                self._return(each)
        elif delivery := worker.deliveries.get(event.delivery):
            self._of_delivery(worker, delivery, event)
        elif isinstance(event, Received):
            self._may_be_liar(event)
        if event.worker in self.workers:
            worker.mark(now)

    def _join(self, event: Joined) -> None:
        worker = self.workers.get(event.worker)
        if worker is None:
            worker = self.workers[event.worker] = KnownWorker()
            self._starting -= self._starting > 0
        elif event.is_ready and not worker.is_ready:
            for delivery in worker.deliveries.values():
                delivery.since = self._now
        if event.is_ready:
            self._failed_starts, self._start_after = 0, 0.0
        worker.slots, worker.ahead = event.slots, event.ahead
        worker.is_ready, worker.reports_begin = event.is_ready or worker.is_ready, event.reports_begin
        worker.mark(self._now)

    def _of_delivery(self, worker: KnownWorker, delivery: SentDelivery, event: Event) -> None:
        if isinstance(event, Received):
            if event.place != delivery.done:
                self._may_be_liar(event)
                return
            work = delivery.work[delivery.done]
            self.accepted.setdefault(attempt_of(work), event.result)
            self._returns[self._task_of[attempt_of(work)]] = 0
            worker.is_ready = True
            delivery.done, delivery.since, delivery.has_begun = delivery.done + 1, self._now, True
            if delivery.done == len(delivery.work):
                del worker.deliveries[delivery.number]
        elif isinstance(event, Begun):
            if not delivery.has_begun:
                delivery.has_begun, delivery.since = True, self._now
        else:
            del worker.deliveries[delivery.number]
            if isinstance(event, Broken) and event.done >= len(delivery.work):
                self._return(delivery)  # nothing of it was in progress
            elif isinstance(event, Broken):
                behind = delivery.left[max(0, event.done - delivery.done) :] or delivery.left[-1:]
                self._allow(behind[:1], "broken")
            elif isinstance(event, Refused) and (event.is_final or event.counts):
                self._refuse(delivery, event)
            elif isinstance(event, (Refused, Returned, Finished)):
                self._return(delivery)

    def _refuse(self, delivery: SentDelivery, event: Refused) -> None:
        task = self._task_of[delivery.left[0]]
        self._refusals[task] = self._refusals.get(task, 0) + 1
        if event.is_final or (self._rules.refusals and self._refusals[task] >= self._rules.refusals):
            self._allow(delivery.left, "refused")

    def _return(self, delivery: SentDelivery) -> None:
        task = self._task_of[delivery.left[0]]
        self._returns[task] = self._returns.get(task, 0) + 1
        if self._returns[task] > self._rules.returns:
            self._allow(delivery.current, "returned")

    def _may_be_liar(self, event: Received) -> None:
        if self._rules.ends_liars:
            for delivery in self.workers[event.worker].deliveries.values():
                if delivery.has_begun and self.workers[event.worker].is_ready:
                    self._allow(delivery.current, "lied")

    def _lose(self, name: str, why: str) -> None:
        worker = self.workers.pop(name)
        if not worker.is_ready:
            self._start_after = self._now + FIRST_BACKOFF * 2 ** min(self._failed_starts, 4)
            self._failed_starts += 1
        for delivery in worker.deliveries.values():
            if delivery.has_begun and worker.is_ready:
                self._allow(delivery.current, why)
            elif not worker.is_ready:
                self._return(delivery)

    def _allow(self, attempts: list[Attempt], why: str) -> None:
        self._may_charge.update(dict.fromkeys(attempts, why))

    # Commands

    def ticked(self, now: float) -> None:
        """Check the scheduler's handling of time."""
        self._may_charge.clear()
        self._now = now

    def command(self, command: Command) -> None:
        """Check a command of the scheduler."""
        if isinstance(command, Send):
            self._send(command)
        elif isinstance(command, Progress):
            self._progress(command)
        elif isinstance(command, End):
            self._end(command)
        elif isinstance(command, Completed):
            self._complete(command.ticket)
        elif isinstance(command, Drop):
            self._drop(command)
        elif isinstance(command, Start):
            self._starting += 1
            if len(self.workers) + self._starting > self._rules.jobs:
                self._broken(f"more than {self._rules.jobs} workers")
            if self._now < self._start_after:
                self._broken("a worker that could not start is replaced without a pause")
        elif isinstance(command, Cancelled):
            if self._tickets.pop(id(command.ticket), None) is None:
                self._broken("a task was cancelled that is over")
            if command.ticket.has_begun:
                self._broken("a task was cancelled that has begun")

    def _send(self, command: Send) -> None:
        worker, task = self.workers.get(command.worker), command.task
        if worker is None:
            self._broken(f"a task was sent to {command.worker}, which has left")
            return
        delivery = SentDelivery(task.id, list(task.work))
        held = [sent for each in self.workers.values() for sent in each.deliveries.values()]
        self._check_alone(worker, delivery, held)
        elsewhere = {attempt for sent in held for attempt in sent.left}
        for work in task.work:
            attempt = attempt_of(work)
            if attempt in self._ended or attempt in self.accepted:
                self._broken(f"attempt {attempt} was sent, which has its result")
            if attempt in self.cancelled:
                self._broken(f"attempt {attempt} was sent, which was cancelled")
            if attempt in elsewhere and (not self._rules.copies or delivery.is_suspect):
                self._broken(f"attempt {attempt} was sent to two workers")
        worker.deliveries[task.id] = delivery
        if len(worker.deliveries) > worker.slots + worker.ahead:
            self._broken(f"{command.worker} has {len(worker.deliveries)} deliveries, and room for less")
        worker.mark(self._now)

    def _check_alone(self, worker: KnownWorker, delivery: SentDelivery, held: list[SentDelivery]) -> None:
        isolation = self._rules.isolation
        if isolation == "none":
            return
        beside = held if isolation == "engine" else list(worker.deliveries.values())
        if any(sent.is_suspect for sent in beside) or (delivery.is_suspect and beside):
            self._broken(f"delivery {delivery.number}: an item that failed before is not alone")

    def _progress(self, command: Progress) -> None:
        work = command.ticket.task.work[command.place]
        attempt = attempt_of(work)
        if attempt in self._ended:
            self._broken(f"attempt {attempt} ends twice")
        self._ended.add(attempt)
        failure = command.result.failure
        said = self.accepted.get(attempt)
        if said is not None and (failure == said.failure or not said.key):
            if said.written != command.result.written:
                self._broken(f"attempt {attempt} has another result than its worker sent")
            return
        if failure is not None and failure.kind == NotBegun.__name__:
            self._leave_out(attempt)
        elif failure is None or failure.kind not in OURS:
            self._broken(f"attempt {attempt} has a result that no worker sent")
        elif attempt not in self._may_charge:
            self._broken(f"attempt {attempt} is charged by {failure.kind} and was not in progress")
        elif self._reports_begin and self._may_charge[attempt] in DEATHS and attempt not in self.begun:
            self._broken(f"attempt {attempt} is charged by {failure.kind}, and no worker has begun it")

    def _leave_out(self, attempt: Attempt) -> None:
        """Check an item that no worker is to begin, since the run was stopped."""
        if attempt not in self._cut_short:
            self._broken(f"attempt {attempt} is left out, and its run was not stopped")
        for name, worker in self.workers.items():
            for delivery in worker.deliveries.values():
                if worker.is_ready and delivery.has_begun and attempt in delivery.current:
                    self._broken(f"attempt {attempt} is left out, and is in progress at {name}")

    def _end(self, command: End) -> None:
        worker = self.workers.get(command.worker)
        if worker is None:
            self._broken(f"{command.worker} is ended, but has left")
            return
        delivery = worker.deliveries.get(command.delivery)
        kind = command.failure.kind
        if kind == "ItemTimeout":
            if delivery is None or not delivery.has_begun:
                self._broken(f"{command.worker} is ended for an item that it had not begun")
                return
            if self._now - delivery.since <= self._rules.timeout:
                self._broken(f"{command.worker} is ended after {self._now - delivery.since:g} s")
            self._allow(delivery.current, "took too long")
            if self._rules.ends == "worker":
                del self.workers[command.worker]
            else:
                del worker.deliveries[command.delivery]
                worker.mark(self._now)
        else:
            self._lose(command.worker, "ended")

    def _drop(self, command: Drop) -> None:
        worker = self.workers.get(command.worker)
        if worker is None:
            self._broken(f"{command.worker} gets a drop, but has left")
        elif delivery := worker.deliveries.get(command.delivery):
            if all(attempt in self._ended for attempt in delivery.left):
                return
            if command.keep:  # others do the rest
                del delivery.work[delivery.done + 1 :]
            else:  # the run was stopped before it was begun
                self._forget_unbegun(worker, delivery)
        else:
            self._broken(f"{command.worker} gets a drop of a delivery that it does not have")

    def _forget_unbegun(self, worker: KnownWorker, delivery: SentDelivery) -> None:
        if worker.is_ready and delivery.has_begun:
            self._broken(f"delivery {delivery.number} is dropped, and is in progress")
        if not self._cut_short.issuperset(delivery.left):
            self._broken(f"delivery {delivery.number} is dropped, and its run was not stopped")
        del worker.deliveries[delivery.number]
        worker.mark(self._now)

    def _complete(self, ticket: Ticket) -> None:
        if self._tickets.pop(id(ticket), None) is None:
            self._broken("a task is completed twice")
        for work in ticket.task.work:
            if attempt_of(work) not in self._ended:
                self._broken(f"a task is completed without a result for {attempt_of(work)}")

    def check_time(self, now: float) -> None:
        """Check that nothing is in progress for much longer than its time-out."""
        most = self._rules.timeout + 0.5
        for name, worker in self.workers.items():
            for delivery in worker.deliveries.values():
                if delivery.has_begun and worker.is_ready and now - delivery.since > most:
                    self._broken(f"{name} is at delivery {delivery.number} for {now - delivery.since:g} s")
