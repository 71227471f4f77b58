"""Placement: chooses a worker for each waiting task. Suspects are sent last, and run alone."""

from __future__ import annotations

from random import Random

from imageloom.scheduling.policies import Choice
from imageloom.scheduling.queue import Queue, Run
from imageloom.scheduling.rules import Rules
from imageloom.scheduling.workers import Delivery, Worker

LONGEST_WAIT = 30.0
"""Time in seconds for which a suspect waits behind other items."""
MOST_SUSPECTS = 2
"""Maximum number of suspects that run at the same time while other items wait. Suspects may crash workers."""
LEAST_STRAGGLE, STRAGGLE = 0.5, 2.0
"""A delivery is a straggler after this minimum in seconds, and after this multiple of the mean time. Then it is
copied."""


class Placement:
    """Pairs waiting runs of items with workers.

    Args:
        workers: all workers by name. The scheduler adds and removes them.
        choice: a policy that chooses a worker for each task, even a worker without a free slot. None: any worker
            with a free slot, the one with the fewest deliveries first.
    """

    def __init__(
        self, rules: Rules, queue: Queue, workers: dict[str, Worker], choice: Choice | None, random: Random
    ) -> None:
        self._rules, self._queue, self._workers = rules, queue, workers
        self._choice, self._random = choice, random
        self.held = self.suspects = 0
        """Number of deliveries in flight, and how many of them are suspects."""
        self._mean = 0.0
        """Mean time of a delivery, in seconds."""

    def note_sent(self, delivery: Delivery) -> None:
        self.held += 1
        self.suspects += delivery.is_suspect

    def note_removed(self, delivery: Delivery) -> None:
        self.held -= 1
        self.suspects -= delivery.is_suspect

    def note_complete(self, worker: Worker, seconds: float) -> None:
        """Record the time that a worker took for a delivery, in seconds."""
        worker.seconds += (seconds - worker.seconds) * (0.2 if worker.seconds else 1.0)
        if self._rules.brief:
            worker.ahead = int(worker.seconds < self._rules.brief)
        self._mean += (seconds - self._mean) * (0.1 if self._mean else 1.0)

    def unreserve(self, worker: Worker) -> None:
        """Queue again the runs that are reserved for a worker."""
        for run in reversed(worker.reserved):
            self._queue.put(run, first=True)
        worker.reserved.clear()

    def take_waiting(self) -> list[Run]:
        """Remove and return all runs that no worker has."""
        for worker in self._workers.values():
            self.unreserve(worker)
        return self._queue.clear()

    def next(self, now: float) -> tuple[Worker, Run] | None:
        """The next worker and the run to send to it; None if nothing waits or no worker has a free slot."""
        if self._choice is not None and (found := self._chosen(self._choice)):
            return found
        if self._choice is not None and self._queue.has_fresh and not self._queue.has_suspects:
            return None
        if len(self._queue):
            worker = self._idlest()
            run = self._for_idlest(worker, now) if worker else None
            return (worker, run) if worker and run else None
        return self._copy(now) if self._rules.copies else None

    def _has_room(self, worker: Worker) -> bool:
        is_alone = self.suspects and self._rules.isolation == "worker" and worker.has_suspect
        return worker.room > 0 and not is_alone

    def _idlest(self) -> Worker | None:
        workers = list(self._workers.values())
        if unwilling := self._queue.first.ticket.unwilling:
            workers = [w for w in workers if w.limit and w.name not in unwilling] or workers
        with_room = [worker for worker in workers if self._has_room(worker)]
        return min(with_room, key=lambda worker: worker.in_hand / worker.limit, default=None)

    def _for_idlest(self, worker: Worker, now: float) -> Run | None:
        """The next run for the least busy worker: suspects come last, except for a few that have waited long."""
        queue, isolation = self._queue, self._rules.isolation
        if isolation == "engine" and self.suspects:
            return None
        if queue.has_suspects:
            has_waited = now - queue.suspect_waits_since() > LONGEST_WAIT
            fresh = queue.has_fresh or any(other.reserved for other in self._workers.values())
            if isolation == "engine":
                if has_waited or not fresh:
                    return None if self.held else queue.pop_suspect()
            elif isolation == "none" or not worker.deliveries:
                are_last = not fresh and self.held == self.suspects
                if are_last or (has_waited and self.suspects < MOST_SUSPECTS):
                    return queue.pop_suspect()
        return queue.pop_fresh() if queue.has_fresh and self._choice is None else None

    def _chosen(self, choice: Choice) -> tuple[Worker, Run] | None:
        """Let the policy choose workers for the waiting runs. Returns the first worker with a free slot."""
        workers = list(self._workers.values())
        for worker in workers:
            if worker.reserved and self._has_room(worker):
                return worker, worker.reserved.popleft()
        if not self._queue.has_fresh or (self._rules.isolation == "engine" and self.suspects):
            return None
        workers = [worker for worker in workers if worker.limit]
        room = 2 * sum([worker.limit for worker in workers]) - sum([worker.in_hand for worker in workers])
        while (
            self._queue.has_fresh
            and room > 0
            and any(worker.in_hand < worker.limit + worker.ahead for worker in workers)
        ):
            run = self._queue.pop_fresh()
            ticket = run.ticket
            able = (
                [worker for worker in workers if worker.name not in ticket.barred]
                if ticket.barred
                else workers
            )
            chosen = self._workers[choice.choose(able or workers, ticket.refused_by, self._random).name]
            if not chosen.reserved and self._has_room(chosen):
                return chosen, run
            chosen.reserved.append(run)
            room -= 1
        return None

    def _copy(self, now: float) -> tuple[Worker, Run] | None:
        """A copy of a straggler, for an idle worker."""
        limit = now - max(LEAST_STRAGGLE, STRAGGLE * self._mean)
        for worker in self._workers.values():
            if worker.reserved or not self._has_room(worker):
                continue
            slow = [
                (delivery.since, delivery.number, delivery.ticket)
                for other in self._workers.values()
                if other is not worker
                for delivery in other.in_progress()
                if delivery.since < limit
                and delivery.ticket.deliveries == 1
                and not delivery.ticket.is_over
                and not delivery.ticket.was_lost
                and not delivery.is_suspect
                and worker.name not in delivery.ticket.unwilling
            ]
            if slow:
                ticket = min(slow, key=lambda found: found[:2])[2]
                return worker, Run(ticket, ticket.missing, now)
        return None
