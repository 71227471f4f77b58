"""A scheduler by itself, on a clock that a test moves."""

from __future__ import annotations

from random import Random
from typing import Any

from imageloom.model import Failure, Item, Limits, Outcome, Output, Recipe, Result, Task, Times, Work
from imageloom.scheduling.policies import open_choice
from imageloom.scheduling.protocol import (
    Command,
    Completed,
    Joined,
    Received,
    Send,
    Ticket,
)
from imageloom.scheduling.rules import Rules
from imageloom.scheduling.scheduler import Scheduler

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
