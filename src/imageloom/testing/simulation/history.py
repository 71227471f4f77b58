"""Runs one history: from a seed to its log and its broken laws."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from imageloom.driver.run import Driver
from imageloom.driver.source import Source
from imageloom.errors import UnwritableOutput
from imageloom.model import Item, Job, Output, Recipe, Step, Unlisted
from imageloom.records.events import Done, Event, Failed, Retried, Skipped
from imageloom.records.ledger import Ledger
from imageloom.stores.names import STAGING
from imageloom.testing.simulation.checks import MOST_ATTEMPTS, LawBroken, SchedulerLaws
from imageloom.testing.simulation.clock import DriverProcess, Killed, NeverEnds, SimulatedClock, SimulatedTime
from imageloom.testing.simulation.coverage import Coverage
from imageloom.testing.simulation.driver_checks import DriverLaws
from imageloom.testing.simulation.engine import SimulatedEngine
from imageloom.testing.simulation.faults import ITEMS, Plan, WorkerFault, draw
from imageloom.testing.simulation.killable import KillableLedger, KillableStore, make_killable

SIZES = ((1, 1), (40, 30), (400, 300), (1600, 1200), (3000, 2000), (4500, 3000))
"""Sizes of the images, used in turn."""
MOST_RUNS = 12
FIRST_PAUSE = 0.1
"""Minimum pause before a second attempt, in seconds. It doubles before the third."""
RECIPE = Recipe((Output((Step("invert"),)),))


def make_source(folder: Path) -> Path:
    """Create the images of all histories: headers only, because no pixels are decoded."""
    folder.mkdir(parents=True)
    random = Random(0)
    for number in range(ITEMS[1]):
        width, height = random.choice(SIZES)
        (folder / f"{number:03}.pgm").write_bytes(b"P5\n%d %d\n255\n\0" % (width, height))
    return folder


class SimulatedSource(Source):
    """The first items of the source, in the order of their names. They may arrive one after the other."""

    def __init__(self, address: str, plan: Plan, time: SimulatedTime) -> None:
        super().__init__(address)
        self._plan, self._time = plan, time

    def entries(self, wake: Callable[[], None]) -> Iterator[Item | Unlisted | None]:
        found = sorted(super().entries(wake), key=lambda entry: entry.key if entry else "")
        for number, entry in enumerate(found[: self._plan.items]):
            while self._time.now < number * self._plan.arrives:
                yield None
            yield entry

    @property
    def pause(self) -> float:
        return 0.2


@dataclass
class History:
    """The result of one seed."""

    seed: int
    broken: list[str] = field(default_factory=list)
    """The broken laws, as text. The first one ends the history."""
    faults: int = 0
    """Number of faults of items and workers, and of kills of the driver."""
    runs: int = 0
    actions: int = 0
    seconds: float = 0.0
    """Length of the history in simulated seconds."""
    log: list[str] = field(default_factory=list)
    seen: Coverage = field(default_factory=Coverage)


class Simulation:
    """One history in progress.

    Args:
        source: a folder made by `make_source`.
        folder: folder for its sink and its ledger. It is removed at the end.
        keeps_log: whether to keep a log.
    """

    def __init__(self, seed: int, source: Path, folder: Path, keeps_log: bool = False) -> None:
        self.history = History(seed)
        self._plan = draw(seed)
        self.history.faults = len(self._plan.item_faults)
        self._random = Random(seed)
        self._time = SimulatedTime()
        self._source, self._folder = source, folder
        self._keeps_log = keeps_log
        self._is_stopped = False
        self._names = itertools.count(1)
        self._engine: SimulatedEngine | None = None
        self._driver: Driver | None = None
        self._process = DriverProcess(self._time, self._random, 0)
        self._laws = SchedulerLaws(self._plan.rules, self._plan.reports_begin, self._break)
        self._run_laws = DriverLaws(self._plan.memory, self._break)
        self._job = Job(str(source), str(folder / "sink"), RECIPE, tile="never", memory=self._plan.memory)

    def run(self) -> History:
        """Run the history."""
        history = self.history
        self._folder.mkdir(parents=True)
        for seconds, fault in self._plan.worker_faults:
            self._time.after(seconds, partial(self._happen, fault))
        try:
            while not self._run_once():
                pass
            self._check_end()
        except NeverEnds:
            history.broken.append("it does not end")
        except LawBroken:
            pass
        except Exception as error:
            history.broken.append(f"{type(error).__name__}: {error}")
            if self._keeps_log:
                raise
        finally:
            shutil.rmtree(self._folder)
        history.actions, history.seconds = self._time.actions, self._time.now
        return history

    def _log(self, text: str) -> None:
        if self._keeps_log:
            self.history.log.append(f"{self._time.now:9.4f} {text}")

    def _break(self, law: str) -> None:
        """Record a broken law, and end the history."""
        self._log(f"BROKEN: {law}")
        self.history.broken.append(law)
        self._process.is_dead = True
        raise LawBroken

    def _happen(self, fault: WorkerFault) -> None:
        if self._engine is None or self._process.is_dead:
            return
        if fault == "stop" and self._driver is None:
            return  # it is being opened
        self.history.faults += 1
        if fault == "stop":
            assert self._driver is not None
            self._log("the driver gets a request to stop")
            self._is_stopped = True
            self._driver.stop()
        else:
            self._engine.transport.happen(fault)

    def _run_once(self) -> bool:
        """Run the driver once. Returns whether it was the last run."""
        history, plan = self.history, self._plan
        history.runs += 1
        if history.runs > MOST_RUNS:
            self._break(f"more than {MOST_RUNS} runs")
        steps = plan.kills_of_driver.pop(0) if plan.kills_of_driver else 0
        process = self._process = DriverProcess(self._time, self._random, steps)
        self._is_stopped = False
        self._log(f"run {history.runs}")
        ledger: KillableLedger | None = None
        try:
            ledger = KillableLedger(self._folder / "ledger.db", process)
            self._check_claims(ledger)
            summary_is_done = self._drive(ledger, process)
            ledger.close()
            return summary_is_done
        except Killed:
            history.faults += 1
            self._log("the driver is killed")
        finally:
            if self._engine is not None:
                self._engine.kill()
            if self._driver is not None:
                self._driver._sink._release()
            if ledger is not None and process.is_dead:
                ledger.abandon()
        if history.broken:
            raise LawBroken
        self._time.pass_by(self._random.expovariate(4.0))
        return False

    def _drive(self, ledger: KillableLedger, process: DriverProcess) -> bool:
        plan, time, random = self._plan, self._time, self._random
        self._driver = None
        self._laws = SchedulerLaws(plan.rules, plan.reports_begin, self._break)
        self._run_laws = laws = DriverLaws(plan.memory, self._break)
        seen, name = self.history.seen, lambda: next(self._names)
        self._engine = engine = SimulatedEngine(
            plan, time, random, process, self._laws, laws, seen, name, self._log if self._keeps_log else None
        )
        clock = SimulatedClock(time, random, process)
        self._driver = driver = self._open_driver(ledger, engine, clock)
        driver._sink.store = KillableStore(
            driver._sink.address, process, lambda token, key: self._check_published(ledger, token, key)
        )
        make_killable(driver._in_progress, process)
        summary = driver.run()
        engine.close()
        for key in [f"{number:03}.pgm" for number in range(plan.items)]:
            if key not in laws.ended and not summary.interrupted:
                self._break(f"{key} has not ended")
        return not summary.interrupted

    def _open_driver(self, ledger: Ledger, engine: SimulatedEngine, clock: SimulatedClock) -> Driver:
        source = SimulatedSource(str(self._source), self._plan, self._time)
        return Driver(self._job, engine, ledger, "simulated", [self._listen], source, clock)

    def _listen(self, event: Event) -> None:
        laws, now = self._run_laws, self._time.now
        self._process.step()
        if isinstance(event, Done):
            self._log(f"  driver: {event.result.key} is done at attempt {event.attempt}")
            laws.end(event.result.key, "done")
        elif isinstance(event, Failed):
            assert event.result.failure is not None
            self._log(
                f"  driver: {event.result.key} failed at attempt {event.attempt}: {event.result.failure}"
            )
            laws.end(event.result.key, "failed")
            may_retry = event.attempt < MOST_ATTEMPTS and not self._is_stopped
            if event.result.failure.transient and may_retry:
                self._break(f"{event.result.key} is given up after {event.attempt} attempts")
        elif isinstance(event, Retried):
            self._log(f"  driver: {event.result.key} waits {event.pause:.3f} s: {event.result.failure}")
            laws.due[event.result.key] = now + event.pause
            if event.pause < FIRST_PAUSE * 2 ** (event.attempt - 1):
                self._break(f"{event.result.key} is tried again after {event.pause:g} s")
            if event.attempt >= MOST_ATTEMPTS:
                self._break(f"{event.result.key} is tried after {event.attempt} attempts")
        elif isinstance(event, Skipped):
            laws.end(event.item.key, "skipped")

    def _check_published(self, ledger: KillableLedger, token: str, name: str) -> None:
        """Check that an output to publish is the accepted result of the item's latest attempt."""
        staged = self._folder / "sink" / STAGING / token
        key, attempt = staged.read_text().split()[:2]
        number = int(token.split("-")[1])
        if key != name:
            self._break(f"the output of {key} gets the name {name}")
        if ledger.claim_on_disk(str(self._folder / "sink"), name) != key:
            self._break(f"{name} is published without a claim")
        if int(attempt) != self._run_laws.attempts.get(key):
            self._break(f"{name} is published from attempt {attempt}")
        result = self._laws.accepted.get((number, int(attempt)))
        if result is None or not result.written or result.written[0].staged != token:
            self._break(f"{name} is published from an attempt that was given up")
        if self._random.random() < self._plan.unwritable:
            self.history.faults += 1
            raise UnwritableOutput("the disk is full")

    def _check_claims(self, ledger: KillableLedger) -> None:
        """Check that the ledger has a claim for each file in the sink, at any time of a kill."""
        with suppress(FileNotFoundError):
            if unknown := set(os.listdir(self._folder / "sink")) - {STAGING} - ledger.claimed():
                self._break(f"the ledger does not know {sorted(unknown)}")

    def _check_end(self) -> None:
        """Check that the sink and the ledger agree with the events, and that a further run has nothing to do."""
        sink = self._folder / "sink"
        ended = self._run_laws.ended
        there = set(os.listdir(sink))
        if there & {STAGING}:
            self._break(f"staged files are left: {os.listdir(sink / STAGING)}")
        published = {key for key, what in ended.items() if what != "failed"}
        if published - there:
            self._break(f"outputs are missing: {sorted(published - there)}")
        for name in there:
            key = (sink / name).read_text().split()[0]
            if key != name:
                self._break(f"{name} was made of {key}")
        with Ledger(self._folder / "ledger.db") as ledger:
            job = next(ledger.jobs())
            states = {record.key: record.state for record in ledger.items(job.id)}
            told = {key: what for key, what in ended.items() if what != "skipped"}
            if states != told or job.state != "done":
                self._break(f"the ledger says {job.state}, {states}, and was told {told}")
            self._process = DriverProcess(self._time, self._random, 0)
            clock = SimulatedClock(self._time, self._random, self._process)
            assert self._engine is not None
            self._run_laws = DriverLaws(self._plan.memory, self._break)
            summary = self._open_driver(ledger, self._engine, clock).preview()
            failed = len(ended) - len(published)
            if (summary.done + summary.failed, summary.skipped) != (failed, len(published)):
                self._break(
                    f"a further run has other items to do than the {failed} that have failed: {summary}"
                )


def simulate(seed: int, source: Path, folder: Path, keeps_log: bool = False) -> History:
    """Run the history of a seed."""
    return Simulation(seed, source, folder, keeps_log).run()
