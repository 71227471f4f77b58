"""The engine of a simulated run: the real scheduler and its real loop, in simulated time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from random import Random

from imageloom.driver.window import DEPTH
from imageloom.engines import Capabilities, ReportingEngine
from imageloom.model import Outcome, Task
from imageloom.recipes.plan import make_plan
from imageloom.scheduling.engine import EngineCore
from imageloom.scheduling.policies import open_choice
from imageloom.scheduling.protocol import Cancelled, Command, Completed, Event, Progress, Send, Ticket
from imageloom.scheduling.results import ResultCallback
from imageloom.scheduling.scheduler import Scheduler
from imageloom.testing.simulation import coverage
from imageloom.testing.simulation.checks import SchedulerLaws, attempt_of
from imageloom.testing.simulation.clock import DriverProcess, SimulatedTime
from imageloom.testing.simulation.driver_checks import DriverLaws
from imageloom.testing.simulation.faults import Plan
from imageloom.testing.simulation.transport import Log, SimulatedTransport


class WatchedScheduler(Scheduler):
    """The scheduler. Its inputs and outputs are checked."""

    laws: SchedulerLaws
    seen: coverage.Coverage
    log: Log | None

    def submit(self, ticket: Ticket, now: float) -> None:
        self.laws.submitted(ticket)
        self.laws.ticked(now)
        super().submit(ticket, now)

    def handle(self, event: Event, now: float) -> bool:
        coverage.note(self.seen, self, event)
        self.laws.event(event, now)
        return super().handle(event, now)

    def cut_short(self, ticket: Ticket, now: float) -> None:
        self.laws.cut_short(ticket)
        self.laws.ticked(now)
        super().cut_short(ticket, now)

    def tick(self, now: float) -> None:
        self.laws.ticked(now)
        super().tick(now)
        self.laws.check_time(now)

    def take_commands(self) -> list[Command]:
        commands = super().take_commands()
        for command in commands:
            if self.log is not None:
                self.log(f"  {shown(command)}")
            self.laws.command(command)
        return commands


class SimulatedEngine(EngineCore, ReportingEngine):
    """The engine of one run of the driver."""

    capabilities = Capabilities(reports_results=True)

    def __init__(
        self,
        plan: Plan,
        time: SimulatedTime,
        random: Random,
        process: DriverProcess,
        laws: SchedulerLaws,
        driver_laws: DriverLaws,
        seen: coverage.Coverage,
        names: Callable[[], int],
        log: Log | None,
    ) -> None:
        choice = open_choice(plan.choice) if plan.choice else None
        scheduler = WatchedScheduler(plan.rules, choice, Random(plan.seed))
        scheduler.laws, scheduler.seen, scheduler.log = laws, seen, log
        self.transport = SimulatedTransport(
            plan, time, random, self._wake, scheduler.deliveries, laws.begun.add, names, log
        )
        self._plan, self._time, self._process = plan, time, process
        self._laws, self._driver_laws = laws, driver_laws
        self._next = float("inf")
        self._is_over = False
        self._capacity = plan.workers
        super().__init__(scheduler, self.transport, time.monotonic)
        self._wake()

    @property
    def capacity(self) -> int:
        self._capacity = max(1, self._plan.workers * self._plan.slots, self.scheduler.capacity)
        return self._capacity

    def submit(self, task: Task, on_result: ResultCallback | None = None) -> Future[Outcome]:
        self._process.step()
        needs = 0
        for work in task.work:
            assert work.header is not None
            needs = max(needs, make_plan(work.header, task.recipe).bytes + work.item.size)
        self._driver_laws.submit(task, needs, DEPTH * self._capacity, self._time.now)
        future = super().submit(task, on_result)
        future.add_done_callback(lambda done: self._is_over_with(task, done))
        return future

    def _is_over_with(self, task: Task, future: Future[Outcome]) -> None:
        del self._driver_laws.in_flight[task.id]
        if future.cancelled():
            self._laws.cancelled.update(map(attempt_of, task.work))

    def close(self) -> None:
        self._closing = True
        self._wake()
        while not self._is_over:
            self._process.step()
            self._time.advance(self._time.now + 1.0)

    def kill(self) -> None:
        """The driver was killed together with the engine."""
        self._is_over = True
        self.transport.abandon()

    def _wake(self) -> None:
        self._wake_after(0.0)

    def _wake_after(self, seconds: float) -> None:
        when = self._time.now + seconds
        if when < self._next:
            self._next = when
            self._time.after(seconds, lambda: self._turn(when))

    def _turn(self, when: float) -> None:
        if self._is_over or when != self._next:
            return
        self._next = float("inf")
        if not self._step():
            self._is_over = True
            self.transport.close(0.0)

    def _events(self, patience: float | None) -> Iterable[Event]:
        events = self.transport.events(patience)
        if events:
            self._wake()
        elif patience is not None:
            self._wake_after(patience)
        return events


def shown(command: Command) -> str:
    """A command as one line of the log."""
    if isinstance(command, Send):
        what = ", ".join(f"{work.item.key} attempt {work.attempt}" for work in command.task.work)
        return f"Send({command.worker}, {command.task.id}: {what})"
    if isinstance(command, Progress):
        work = command.ticket.task.work[command.place]
        failure = command.result.failure
        what = f"{failure.kind}, {failure.message}" if failure else "done"
        return f"Progress({work.item.key} attempt {work.attempt}: {what})"
    if isinstance(command, (Completed, Cancelled)):
        return f"{type(command).__name__}(task {command.ticket.task.id})"
    return repr(command)
