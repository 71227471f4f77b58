"""Simulated workers: after the simulated time of an item, a worker stages a few real bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from msgspec.structs import replace

from imageloom.errors import ItemError
from imageloom.model import Failure, Result, Task, Times, Work, Written
from imageloom.scheduling.protocol import Begun, Broken, Finished, Received, Refused, Send
from imageloom.stores import open_store, stage
from imageloom.testing.simulation.checks import Attempt, attempt_of
from imageloom.testing.simulation.clock import SimulatedTime
from imageloom.testing.simulation.faults import ItemFault, Plan

SECONDS = 0.05
"""Mean time of an item without pixels, in seconds."""
FOR_PIXELS = 3e-8
"""Time per pixel, in seconds."""
SLOW = 25.0
"""Factor of the time of a slow item."""
Report = Begun | Received | Finished | Refused | Broken
"""The events that a worker reports."""


class Network(Protocol):
    """The network of a worker."""

    is_open: bool
    """Whether the driver is alive."""

    def report(self, worker: SimulatedWorker, event: Report) -> None: ...

    def has_died(self, worker: SimulatedWorker, delivery: int, done: int) -> None:
        """Report that a worker died during an item.

        Args:
            delivery: delivery of the item; 0 for none.
            done: number of its completed items.
        """


@dataclass(eq=False)
class Doing:
    """A delivery in progress on a worker."""

    task: Task
    place: int = 0


@dataclass(eq=False)
class SimulatedWorker:
    """The real state of a worker, which the scheduler may not know."""

    name: str
    plan: Plan
    time: SimulatedTime
    random: Random
    network: Network
    began: Callable[[Attempt], None]
    """Called with each attempt that it begins."""
    slots: int = 1
    is_ready: bool = False
    is_alive: bool = True
    hangs: bool = False
    refuses: bool = False
    slowness: float = 1.0
    lies: int = 0
    """Number of its next results that are wrong."""
    repeats: int = 0
    """Number of its next messages that are sent twice."""
    inbox: deque[Task] = field(default_factory=deque)
    doing: dict[int, Doing] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)

    @property
    def holding(self) -> set[int]:
        """The deliveries that it has."""
        return {*self.doing, *(task.id for task in self.inbox)}

    def receive(self, command: Send) -> None:
        """Handle a new task."""
        if not self.is_alive:
            return
        task = command.task
        if task.id in self.holding:  # a duplicate message
            return
        if not command.must_accept and not self.hangs and self._refuses():
            is_final = self.random.random() < 0.02
            counts = self.random.random() < 0.7
            self.network.report(self, Refused(self.name, task.id, "it is busy", is_final, counts))
            return
        self.inbox.append(task)
        self.continue_work()

    def _refuses(self) -> bool:
        return self.refuses or self.random.random() < self.plan.refuses

    def become_ready(self) -> None:
        self.is_ready = True
        self.continue_work()

    def drop(self, delivery: int) -> None:
        """Drop the items of a delivery that have not begun."""
        self.dropped.add(delivery)
        for task in list(self.inbox):
            if task.id == delivery:
                self.inbox.remove(task)
                self._finish(delivery, is_cut=True)

    def end(self, delivery: int) -> None:
        """Stop a delivery at once."""
        self.doing.pop(delivery, None)
        self.inbox = deque(task for task in self.inbox if task.id != delivery)
        self.continue_work()

    def forget_all(self) -> None:
        self.inbox.clear()
        self.doing.clear()

    def continue_work(self) -> None:
        """Begin waiting deliveries if there is a free slot."""
        while self._works() and self.inbox and len(self.doing) < self.slots:
            task = self.inbox.popleft()
            self.doing[task.id] = doing = Doing(task)
            if self.plan.reports_begin:
                self.network.report(self, Begun(self.name, task.id))
            self._begin_item(doing)

    def _works(self) -> bool:
        return self.is_alive and self.is_ready and not self.hangs

    def _begin_item(self, doing: Doing) -> None:
        task = doing.task
        is_cut = task.id in self.dropped and doing.place > 0
        if is_cut or doing.place == len(task.work) or not self.network.is_open:
            del self.doing[task.id]
            self._finish(task.id, is_cut)
            self.continue_work()
            return
        work = task.work[doing.place]
        self.began(attempt_of(work))
        fault = self._fault_of(work)
        pixels = work.header.frame.pixels if work.header else 0
        seconds = (SECONDS + FOR_PIXELS * pixels) * self.random.uniform(0.5, 1.5) * self.slowness
        if fault == "hangs":
            return
        if fault == "kills":
            seconds *= self.random.choice((self.random.random(), SLOW))
            self.time.after(seconds, lambda: self._crash(doing, doing.place))
            return
        if fault == "is slow":
            seconds *= SLOW
        self.time.after(seconds, lambda: self._end_item(doing, seconds))

    def _fault_of(self, work: Work) -> str:
        fault = self.plan.item_faults.get(number_of(work.item.key))
        return fault.what if isinstance(fault, ItemFault) and work.attempt <= fault.attempts else ""

    def _finish(self, delivery: int, is_cut: bool) -> None:
        if self.plan.says_finished or is_cut:
            self.network.report(self, Finished(self.name, delivery))

    def _crash(self, doing: Doing, place: int) -> None:
        if self.is_alive and self.doing.get(doing.task.id) is doing and doing.place == place:
            self.network.has_died(self, doing.task.id, doing.place)

    def _end_item(self, doing: Doing, seconds: float) -> None:
        task = doing.task
        if not self._works() or self.doing.get(task.id) is not doing:
            return
        work = task.work[doing.place]
        result = self._result(task, work, seconds)
        event = Received(self.name, task.id, doing.place, result)
        if self.lies > 0:
            self.lies -= 1
            self.network.report(self, self._lie(event))
        else:
            self.network.report(self, event)
        doing.place += 1
        self._begin_item(doing)

    def _result(self, task: Task, work: Work, seconds: float) -> Result:
        key, times = work.item.key, Times(filter=seconds)
        fault = self._fault_of(work)
        if fault == "is bad":
            return Result(key, failure=Failure("CorruptImage", "it is cut off"), times=times)
        if fault == "fails":
            return Result(key, failure=Failure("OperatorFailed", "it failed", True), times=times)
        token = f"{task.job}-{work.number}-{work.attempt}-{self.random.randrange(1 << 48):012x}-0"
        data = f"{key} {work.attempt} {task.id} {self.name}".encode()
        try:
            stage(open_store(task.sink), token, data)
        except ItemError as error:  # the run is over, and its staging folder is gone
            return Result(key, failure=Failure.of(error), times=times)
        return Result(key, (Written(work.names[0], token, len(data)),), times=times)

    def _lie(self, event: Received) -> Report:
        kind = self.random.randrange(5)
        if kind == 4:
            return Refused(event.worker, event.delivery, "it does not want to go on")
        if kind == 0:
            return Received(event.worker, event.delivery, event.place + 1, event.result)
        if kind == 1:
            return Received(event.worker, event.delivery + 1_000_000, event.place, event.result)
        if kind == 2:
            return Received(event.worker, event.delivery, event.place, replace(event.result, key="999.pgm"))
        return Received(event.worker, event.delivery, max(0, event.place - 1), event.result)


def number_of(key: str) -> int:
    """The number of an item, by its key."""
    return int(key.partition(".")[0])
