"""Records the results of tasks. The first result of each item counts, and a complete task is reported once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from imageloom.errors import InvalidResult, NotBegun, TaskRefused, TaskRejected
from imageloom.model import Failure, Outcome, Result
from imageloom.scheduling.protocol import Cancelled, Command, Completed, Drop, Progress, Refused, Ticket
from imageloom.scheduling.rules import Rules
from imageloom.scheduling.workers import Worker

NOT_BEGUN = Failure.of(NotBegun("the run was stopped before it was begun"))


class Tickets:
    """Records results, and reports complete tasks.

    Args:
        workers: all workers by name. Those that still have deliveries of a complete task get a `Drop`.
        emit: called with each command.
        epoch: added to a time, it gives seconds since the Unix epoch.
    """

    def __init__(self, workers: dict[str, Worker], emit: Callable[[Command], None], epoch: float) -> None:
        self._workers, self._emit, self._epoch = workers, emit, epoch

    def record(self, ticket: Ticket, place: int, result: Result) -> None:
        """Record the result of one item. Only the first result counts."""
        if place not in ticket.results:
            ticket.results[place] = result
            if ticket.reports:
                self._emit(Progress(ticket, place, result))

    def fail(
        self,
        ticket: Ticket,
        places: Iterable[int],
        failure: Failure,
        now: float,
        worker: str = "",
        spent: float = 0.0,
    ) -> None:
        """Charge items: each gets a failed result.

        Args:
            spent: time that the worker spent on them, in seconds.
        """
        began = self._epoch + now - spent
        for place in places:
            key = ticket.task.work[place].item.key
            result = Result(key, failure=failure, started=began, lost=spent, worker=worker)
            self.record(ticket, place, result)
        self.complete(ticket, worker)

    def left_out(self, ticket: Ticket, places: Iterable[int], now: float) -> bool:
        """Fail items as `NotBegun` if only the items in progress of their task are wanted. Returns whether."""
        if ticket.is_cut_short and ticket.has_begun:
            self.fail(ticket, places, NOT_BEGUN, now)
        return ticket.is_cut_short

    def may_begin(self, ticket: Ticket) -> bool:
        """Whether a task may be sent to a worker; False if it was cancelled."""
        if not ticket.has_begun and not ticket.is_over:
            ticket.has_begun = ticket.begin()
            if not ticket.has_begun:
                self.cancel(ticket)
        return ticket.has_begun

    def cancel(self, ticket: Ticket) -> None:
        if not ticket.is_over:
            ticket.is_over = True
            self._emit(Cancelled(ticket))

    def complete(self, ticket: Ticket, worker: str) -> None:
        """Report a task that has all its results, and drop its other deliveries."""
        if ticket.is_over or len(ticket.results) < len(ticket.task.work):
            return
        ticket.is_over = True
        ordered = tuple(ticket.results[place] for place in range(len(ticket.task.work)))
        self._emit(Completed(ticket, Outcome(ticket.task.id, worker, ordered)))
        if ticket.deliveries:
            for other in self._workers.values():
                for delivery in other.deliveries.values():
                    if delivery.ticket is ticket:
                        delivery.is_cut = True
                        self._emit(Drop(other.name, delivery.number))

    def places_elsewhere(self, ticket: Ticket) -> set[int]:
        """Positions of the items of a task that are in other deliveries: copies, or items taken from a slow
        worker."""
        if not ticket.deliveries:
            return set()
        return {
            place
            for worker in self._workers.values()
            for delivery in worker.deliveries.values()
            if delivery.ticket is ticket
            for place in delivery.places[delivery.done :]
        }

    def refuse(self, ticket: Ticket, event: Refused, rules: Rules) -> Failure | None:
        """Count a refusal. Returns the failure of the task's items if the task must not be tried again, otherwise
        None."""
        up = {worker.name for worker in self._workers.values() if worker.limit}
        if event.is_final:
            ticket.barred.add(event.worker)
            is_over = ticket.barred >= up
            return Failure.of(TaskRefused(f"{event.worker}: {event.reason}")) if is_over else None
        ticket.refused_by.add(event.worker)
        if ticket.refused_by >= up:
            ticket.refused_by.clear()
        if not event.counts:
            return None
        if ticket.must_accept:
            return Failure.of(InvalidResult(f"{event.worker} refused a task that it must accept"))
        ticket.refusals += 1
        if not rules.refusals or ticket.refusals < rules.refusals:
            return None
        ticket.must_accept = rules.falls_back
        if rules.falls_back:
            return None
        reason = f"workers refused it {ticket.refusals} times: {event.reason}"
        return Failure.of(TaskRejected(f"{reason} (see rejections and fallback in the file of nodes)"))
