"""The simulated network: a transport whose messages have a latency, and may be lost, late, duplicated or out of
order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from imageloom.model import Failure
from imageloom.scheduling.protocol import (
    Begun,
    Broken,
    Died,
    Drop,
    End,
    Event,
    Finished,
    Joined,
    Left,
    Received,
    Returned,
    Send,
)
from imageloom.testing.simulation.checks import Attempt
from imageloom.testing.simulation.clock import SimulatedTime
from imageloom.testing.simulation.faults import SILENCE, Plan, WorkerFault
from imageloom.testing.simulation.workers import Report, SimulatedWorker

BEAT = 0.5
"""Seconds between two heartbeats."""
Log = Callable[[str], None]


class SimulatedTransport:
    """The transport and the workers of one run of the driver.

    Args:
        wake: makes the engine read events.
        holds: returns the deliveries that a worker should have, by its name.
        began: called with each attempt that a worker begins.
        names: returns the number of each new worker.
    """

    def __init__(
        self,
        plan: Plan,
        time: SimulatedTime,
        random: Random,
        wake: Callable[[], None],
        holds: Callable[[str], set[int]],
        began: Callable[[Attempt], None],
        names: Callable[[], int],
        log: Log | None,
    ) -> None:
        self.is_open = True
        self.wake = wake
        self.workers: dict[str, SimulatedWorker] = {}
        """Workers that have joined, and whose end was not reported yet."""
        self._plan, self._time, self._random = plan, time, random
        self._holds, self._began, self._names, self._log = holds, began, names, log
        self._events: list[Event] = []
        self._arrival: dict[tuple[str, bool], float] = {}
        self._heard: dict[str, float] = {}
        self._missed: dict[str, set[int]] = {}
        self._cut_off: dict[str, float] = {}
        self._ended: set[tuple[str, int]] = set()
        if not plan.rules.jobs:
            for _ in range(plan.workers):
                time.after(random.expovariate(10.0), self._join)

    # Commands of the engine

    def open(self, failed: Callable[[str], None]) -> None:
        """Does nothing: it is always open."""

    def start(self) -> None:
        self._time.after(self._random.expovariate(1.0 / self._plan.latency), self._join)

    def send(self, command: Send) -> None:
        if worker := self.workers.get(command.worker):
            self._carry(worker, True, lambda: worker.receive(command))

    def drop(self, command: Drop) -> None:
        if worker := self.workers.get(command.worker):
            self._carry(worker, True, lambda: worker.drop(command.delivery))

    def end(self, command: End) -> None:
        worker = self.workers.get(command.worker)
        if worker is None:
            return
        if self._plan.rules.ends == "delivery" and command.failure.kind != "InvalidResult":
            self._ended.add((worker.name, command.delivery))
            worker.end(command.delivery)
        else:
            self._release(worker)
            worker.is_alive = False

    def events(self, patience: float | None) -> list[Event]:
        events, self._events = self._events, []
        return events

    def close(self, patience: float) -> None:
        self.is_open = False
        for worker in self.workers.values():
            worker.is_alive = False

    def abandon(self) -> None:
        """The driver was killed. The workers notice it after their current item."""
        self.is_open = False

    # Workers

    def _join(self) -> None:
        plan = self._plan
        if not self.is_open:
            return
        worker = SimulatedWorker(
            f"w{self._names()}", plan, self._time, self._random, self, self._began, plan.slots
        )
        self._add(worker)
        if self._random.random() < plan.dies_starting:
            self._time.after(self._random.expovariate(5.0), lambda: self._die(worker, "it could not start"))
        else:
            self._time.after(self._random.expovariate(5.0), lambda: self._become_ready(worker))

    def _add(self, worker: SimulatedWorker) -> None:
        self.workers[worker.name] = worker
        self._heard[worker.name] = self._time.now
        self._missed[worker.name] = set()
        self._emit(self._joined(worker))
        if self._plan.beats:
            self._time.after(BEAT, lambda: self._beat(worker, worker.name))

    def _joined(self, worker: SimulatedWorker) -> Joined:
        plan = self._plan
        load = self._random.random()
        return Joined(worker.name, worker.slots, plan.ahead, load, worker.is_ready, plan.reports_begin)

    def _become_ready(self, worker: SimulatedWorker) -> None:
        if worker.is_alive and self.is_open:
            worker.become_ready()
            self._carry(worker, False, lambda: self._resize(worker), may_lose=False)

    def _release(self, worker: SimulatedWorker) -> None:
        """Handle a reported end of a worker: another one joins."""
        if self.workers.pop(worker.name, None) and not self._plan.rules.jobs:
            self._time.after(self._random.expovariate(2.0), self._join)

    def has_died(self, worker: SimulatedWorker, delivery: int, done: int) -> None:
        if self._plan.rules.ends == "delivery":
            if self._log:
                self._log(f"{worker.name} breaks delivery {delivery} at {done}")
            worker.end(delivery)
            failure = Failure("WorkerLost", "the process of the delivery died", True)
            self.report(worker, Broken(worker.name, delivery, failure, done))
        else:
            self._die(worker, "an item killed it")

    def _die(self, worker: SimulatedWorker, why: str) -> None:
        if not worker.is_alive:
            return
        if self._log:
            self._log(f"{worker.name} dies: {why}")
        worker.is_alive = False
        if (
            not self._plan.loses or self._random.random() < 0.1
        ):  # otherwise only its missing heartbeats show it
            self._report_death(worker, why)

    def _report_death(self, worker: SimulatedWorker, why: str) -> None:
        def report() -> None:
            if worker.name in self.workers or self._plan.beats:
                self._release(worker)
                self._emit(Died(worker.name, Failure("WorkerLost", f"its worker died: {why}", True)))

        self._carry(worker, False, report, may_lose=False)

    def _beat(self, worker: SimulatedWorker, name: str) -> None:
        """Send a worker's heartbeat if it is alive, and check its time-out."""
        if self.workers.get(name) is not worker or not self.is_open:
            return
        if self._time.now - self._heard[name] > SILENCE:
            held = sorted(self._holds(name))
            self._release(worker)
            failure = Failure("WorkerLost", f"its worker sent nothing for {SILENCE:g} s", True)
            self._emit(Died(name, failure))
            for delivery in held:  # its connection breaks only now
                self._emit(Returned(name, delivery))
            if worker.is_alive and not worker.hangs:
                self._time.after(self._random.expovariate(1.0), lambda: self._return(worker))
            return
        if worker.is_alive and not worker.hangs:
            holding = worker.holding
            self._carry(worker, False, lambda: self._compare(name, holding))
        self._time.after(BEAT, lambda: self._beat(worker, name))

    def _return(self, worker: SimulatedWorker) -> None:
        """Notify a worker that was falsely reported as dead."""
        if worker.is_alive and self.is_open:
            worker.forget_all()
            worker.is_alive = False
            self._emit(Left(worker.name))

    def _compare(self, name: str, holding: set[int]) -> None:
        if name not in self.workers:
            return
        self._heard[name] = self._time.now
        missing = self._holds(name) - holding
        for delivery in missing & self._missed[name]:
            self._emit(Returned(name, delivery))
        self._missed[name] = missing

    # Messages

    def report(self, worker: SimulatedWorker, event: Report) -> None:
        """Send a report of a worker to the scheduler."""
        if worker.lies > 0 and not isinstance(event, Received):
            worker.lies -= 1
            self._report_once(worker, replace(event, delivery=event.delivery + 1_000_000))
        self._report_once(worker, event)
        if worker.repeats > 0:
            worker.repeats -= 1
            self._report_once(worker, event)

    def _report_once(self, worker: SimulatedWorker, event: Report) -> None:
        def arrive() -> None:
            known = worker.name in self.workers
            if known:
                self._heard[worker.name] = self._time.now
            elif not self._plan.beats:  # its connection is closed
                return
            if isinstance(event, (Received, Finished)) and (worker.name, event.delivery) in self._ended:
                return
            self._emit(event)

        self._carry(worker, False, arrive, may_lose=not isinstance(event, Begun))

    def _emit(self, event: Event) -> None:
        if self.is_open:
            if self._log:
                self._log(f"    {_shown(event)}")
            self._events.append(event)
            self.wake()

    def _carry(
        self, worker: SimulatedWorker, there: bool, arrive: Callable[[], None], may_lose: bool = True
    ) -> None:
        """Deliver a message after its latency, or lose it."""
        random, plan, now = self._random, self._plan, self._time.now
        is_cut_off = self._cut_off.get(worker.name, 0.0) > now
        if may_lose and plan.beats and (is_cut_off or random.random() < plan.loses):
            if self._log:
                self._log(f"    a message {'to' if there else 'from'} {worker.name} is lost")
            return
        is_late = random.random() < plan.late
        when = now + random.expovariate(1.0 / plan.latency) * (100.0 if is_late else 1.0)
        if plan.rules.ends_liars or not is_late:  # in order
            when = max(when, self._arrival.get((worker.name, there), 0.0))
            self._arrival[worker.name, there] = when
        self._time.after(when - now, arrive)

    # Faults

    def happen(self, fault: WorkerFault) -> None:
        """Apply a fault to a random worker."""
        there = [worker for worker in self.workers.values() if worker.is_alive]
        if not there or not self.is_open:
            return
        worker = self._random.choice(there)
        if self._log:
            self._log(f"{worker.name} {fault}")
        if fault == "dies":
            self._die(worker, "by chance")
        elif fault == "hangs":
            worker.hangs = True
            if self._plan.reports_begin and not self._plan.beats:
                self._time.after(SILENCE, lambda: self._report_death(worker, "it hung"))
        elif fault == "leaves":
            worker.is_alive = False
            self._carry(worker, False, lambda: self._leave(worker), may_lose=False)
        elif fault == "slows down":
            worker.slowness = 10.0
            self._time.after(5.0, lambda: setattr(worker, "slowness", 1.0))
        elif fault == "is cut off":
            self._cut_off[worker.name] = self._time.now + self._random.uniform(0.5, 2.5) * SILENCE
        elif fault == "is disconnected":
            self._carry(worker, False, lambda: self._disconnect(worker), may_lose=False)
        elif fault == "lies":
            worker.lies += 1
        elif fault == "repeats":
            worker.repeats += 3
        elif fault == "resizes":
            worker.slots = max(1, worker.slots + self._random.choice((-1, 1)))
            self._carry(worker, False, lambda: self._resize(worker), may_lose=False)
            worker.continue_work()
        elif fault == "refuses":
            worker.refuses = True
            self._time.after(1.0, lambda: setattr(worker, "refuses", False))

    def _leave(self, worker: SimulatedWorker) -> None:
        if worker.name in self.workers or self._plan.beats:
            self._release(worker)
            self._emit(Left(worker.name))

    def _disconnect(self, worker: SimulatedWorker) -> None:
        """Disconnect a worker: its deliveries are lost, and it continues."""
        if worker.name in self.workers:
            worker.forget_all()
            for delivery in sorted(self._holds(worker.name)):
                self._emit(Returned(worker.name, delivery))

    def _resize(self, worker: SimulatedWorker) -> None:
        if worker.name in self.workers:
            self._emit(self._joined(worker))


def _shown(event: Event) -> str:
    if isinstance(event, Received):
        what = event.result.failure.kind if event.result.failure else "done"
        return f"Received({event.worker}, {event.delivery}, {event.place}: {event.result.key} {what})"
    return repr(event)
