"""What an engine does where an item hangs, a worker dies or a worker refuses a task: time-outs, charges, results.

A charge is an attempt that failed: the driver counts it, and gives an item up after the last one. An item may be
charged only where it was itself in hand. These tests see an engine from outside: the driver's events, the ledger,
and the notes that the operators of `marked` write about what they begin and end.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import psutil
import pytest
from msgspec.structs import replace

from imageloom import codecs
from imageloom.driver.run import Driver
from imageloom.engines import Engine, submit
from imageloom.model import Item, Job, Limits, Output, Recipe, Result, Task, Work
from imageloom.recipes.pipeline import Pipeline
from imageloom.recipes.recipe import with_operators
from imageloom.records.events import Event, Failed, Retried
from imageloom.records.ledger import Ledger
from imageloom.records.summary import Summary
from imageloom.stores.names import STAGING
from imageloom.testing.engine_base import EngineBase

COUNT = 30
"""Images of a run."""
MARKED = 4
"""The place of the image that does harm, in the order in which the folder lists them: many follow it."""
TIMEOUT = 2.0
"""Seconds that an item may take."""
LONGEST = 5.0
"""Seconds after its begin by which an item that hangs must have been ended."""
NOISE = 1.5
"""Seconds that a busy machine may add to that."""
PATIENCE = 15.0
"""Seconds after which an item that hangs is let go, so that a test of an engine that does not end it fails."""
MARKED_OPERATORS = str(Path(__file__).with_name("marked.py"))
Refusal = Literal["busy", "elsewhere"]
"""Why a worker refuses: its policy rejects the task, or it does not see the task's storage."""


@dataclass
class Begun:
    """An image in an operator's hands, as the operator noted it."""

    number: int
    pid: int
    at: float
    """When, by the monotonic clock."""
    ended: float = float("inf")


@dataclass
class Stage:
    """A folder of numbered images, one marked, and of the notes of the operators."""

    folder: Path
    events: list[tuple[float, Event]] = field(default_factory=list)
    """What the driver said, each with the time of the monotonic clock."""

    def __post_init__(self) -> None:
        self.photos, self.sink = self.folder / "photos", self.folder / "out"
        self.photos.mkdir(parents=True)
        for number in range(COUNT):
            self._draw(number)
        self.numbers = [int(entry.name.partition(".")[0]) for entry in os.scandir(self.photos)]
        """In the order of the folder, which is that of the run."""
        self.marked = self.numbers[MARKED]
        self._draw(self.marked, 255)

    def _draw(self, number: int, blue: int = 0) -> None:
        image = np.full((15, 20, 3), (number, 0, blue), np.uint8)
        (self.photos / key_of(number)).write_bytes(codecs.get("png").encode(image, 90))

    def recipe(self, text: str) -> Recipe:
        loaded = with_operators(Recipe((), "exact"), [MARKED_OPERATORS])
        return replace(loaded, outputs=(Output(Pipeline(text).steps),))

    def run(self, engine: Engine, name: str, ledger: Ledger, text: str, attempts: int = 3) -> Summary:
        """Do the whole folder, small images only."""
        job = Job(str(self.photos), str(self.sink), self.recipe(text), tile="never", attempts=attempts)
        summary = Driver(job, engine, ledger, name, [self._listen]).run()
        self._check_ledger(ledger, summary)
        return summary

    def _listen(self, event: Event) -> None:
        self.events.append((time.monotonic(), event))

    def _check_ledger(self, ledger: Ledger, summary: Summary) -> None:
        """The ledger counts the attempts that the events tell of."""
        failures = self.charges
        for item in ledger.items(summary.job):
            last = item.state == "done"
            assert item.attempts == failures[item.key] + last, f"{item.key} in the ledger"

    def release(self) -> None:
        """Let all go that wait or hang."""
        (self.folder / "release").touch()

    @contextmanager
    def released_in_the_end(self, seconds: float = PATIENCE) -> Iterator[threading.Timer]:
        """Release what still hangs after some seconds; the timer is alive as long as it has not."""
        timer = threading.Timer(seconds, self.release)
        timer.start()
        try:
            yield timer
        finally:
            timer.cancel()
            timer.join()
            self.release()

    @property
    def begun(self) -> list[Begun]:
        """What was begun so far, in the order of its begin."""
        path, found = self.folder / "notes", list[Begun]()
        for line in path.read_text().splitlines() if path.exists() else ():
            what, number, pid, at = line.split()
            if what == "begin":
                found.append(Begun(int(number), int(pid), float(at)))
            else:
                mine = (one for one in found if (one.number, one.pid) == (int(number), int(pid)))
                list(mine)[-1].ended = float(at)
        return found

    @property
    def in_hand(self) -> list[Begun]:
        """What was begun and has not ended."""
        return [one for one in self.begun if one.ended == float("inf")]

    @property
    def charged(self) -> list[tuple[float, Failed | Retried]]:
        """The attempts that failed, with the time at which the driver knew."""
        return [(at, event) for at, event in self.events if isinstance(event, Failed | Retried)]

    @property
    def charges(self) -> Counter[str]:
        """How many attempts each item was charged."""
        return Counter(event.result.key for _, event in self.charged)

    def __str__(self) -> str:
        lines = [f"{self.charges.total()} attempts charged: {dict(self.charges)}"]
        for at, event in self.charged:
            failure = event.result.failure
            lines.append(f"{at:.3f} {event.result.key} attempt {event.attempt}: {failure and failure.kind}")
        lines += [f"{one.at:.3f} {key_of(one.number)} begun in {one.pid}" for one in self.begun[-40:]]
        return "\n".join(lines)


def key_of(number: int) -> str:
    return f"{number:02}.png"


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    """Whether a condition came to hold in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


class EngineFaults(EngineBase):
    """The suite of time-outs, charges and results by item."""

    processes: ClassVar[int] = 2
    """Worker processes that run operators."""
    in_hand: ClassVar[int] = 1
    """Items that one worker process may have in hand at once."""

    @pytest.fixture
    def stage(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
        """To be made before the engine is opened: its workers have the variable from this process."""
        monkeypatch.setenv("IMAGELOOM_STAGE", str(tmp_path / "stage"))
        return Stage(tmp_path / "stage")

    @pytest.mark.parametrize(("harm", "attempts"), [("hang", 1), ("spin", 2)])
    def test_a_hung_item_is_ended_at_its_time_out(
        self, stage: Stage, ledger: Ledger, harm: str, attempts: int
    ) -> None:
        """It alone is charged, while the others are under way."""
        with closing(self.open_engine(timeout=TIMEOUT)) as engine:
            if not engine.capabilities.ends_items:
                pytest.skip("the engine declares that it cannot end an item")
            with stage.released_in_the_end():
                summary = stage.run(engine, self.engine, ledger, f"{harm}_on_mark 0.2", attempts)
        key = key_of(stage.marked)
        assert (summary.done, summary.failed) == (COUNT - 1, 1), stage
        assert stage.charges == {key: attempts}, f"others were charged: {stage}"
        before = 0.0
        for number, (at, event) in enumerate(stage.charged, 1):
            assert isinstance(event, Failed if number == attempts else Retried)
            assert event.attempt == number
            assert event.result.failure is not None
            assert event.result.failure.kind == "ItemTimeout"
            assert "--timeout" in event.result.failure.message
            begin = min(one.at for one in stage.begun if one.number == stage.marked and one.at > before)
            assert 0.75 * TIMEOUT < at - begin < LONGEST + NOISE, f"after {at - begin:.1f} s: {stage}"
            before = at

    def test_a_killed_worker_costs_only_what_it_had_in_hand(self, stage: Stage, ledger: Ledger) -> None:
        """All workers are busy with items that wait; one of them is killed, then the others go on."""
        killed: list[int] = []

        def kill() -> None:
            if wait_until(lambda: len({one.pid for one in stage.in_hand}) >= self.processes, 60):
                killed.append(stage.in_hand[0].pid)
                os.kill(killed[0], signal.SIGKILL)
                wait_until(lambda: _is_over(killed[0]), 10)
            stage.release()

        with closing(self.open_engine()) as engine:
            if not engine.capabilities.survives_death:
                pytest.skip("the engine declares that it does not survive a worker's death")
            with stage.released_in_the_end(70):
                killer = threading.Thread(target=kill)
                killer.start()
                summary = stage.run(engine, self.engine, ledger, "wait")
                killer.join()
        assert killed
        assert (summary.done, summary.failed) == (COUNT, 0), stage
        had = {key_of(one.number) for one in stage.in_hand if one.pid == killed[0]}
        assert 0 < len(had) <= self.in_hand, f"{killed[0]} had {had} in hand: {stage}"
        assert set(stage.charges) <= had, f"it had {had} in hand, and {stage}"
        assert set(stage.charges.values()) <= {1}, stage

    def test_three_kills(self, stage: Stage, ledger: Ledger) -> None:
        """An item that kills its worker each time is given up after three of them."""
        with closing(self.open_engine()) as engine:
            if not engine.capabilities.survives_death:
                pytest.skip("the engine declares that it does not survive a worker's death")
            summary = stage.run(engine, self.engine, ledger, "die_on_mark 0.05")
        key = key_of(stage.marked)
        assert (summary.done, summary.failed) == (COUNT - 1, 1), stage
        (failed,) = [event for _, event in stage.charged if isinstance(event, Failed)]
        assert (failed.result.key, failed.attempt) == (key, 3)
        assert failed.result.failure is not None
        assert failed.result.failure.kind == "WorkerLost"
        assert sum(one.number == stage.marked for one in stage.begun) == 3, f"it was tried: {stage}"
        others = stage.charges.total() - stage.charges[key]
        assert others <= 3 * (self.in_hand - 1), f"{others} other attempts were charged: {stage}"

    def test_results_come_item_by_item(self, stage: Stage, opened: Engine) -> None:
        """The last item of a task waits until the first one's result is there."""
        (stage.sink / STAGING).mkdir(parents=True)
        keys = [key_of(number) for number in stage.numbers[MARKED - 2 : MARKED + 1]]
        works = tuple(Work(Item(key), (key,), number) for number, key in enumerate(keys))
        recipe = stage.recipe("hang_on_mark 0")
        task = Task(1, "1", str(stage.photos), str(stage.sink), recipe, Limits(), works)
        told: list[tuple[int, Result, bool]] = []

        def take(place: int, result: Result) -> None:
            told.append((place, result, timer.is_alive()))
            if place == 0:
                stage.release()

        with stage.released_in_the_end(10) as timer:
            outcome = submit(opened, task, take).result(60)
        assert [result.key for result in outcome.results] == keys
        assert not any(result.failure for result in outcome.results)
        early = [result for place, result, is_early in told if is_early and place == 0]
        assert early, f"on_result was called for {[place for place, *_ in told]}, too late for the first item"
        assert (early[0].key, early[0].failure) == (keys[0], None)

    def one_that_refuses(self, why: Refusal, stage: Stage, folder: Path) -> AbstractContextManager[Engine]:
        """The engine over two workers, of which one refuses each task.

        Args:
            folder: another one than the images are in.
        """
        raise NotImplementedError("an engine whose workers refuse tasks says here how to make one that does")

    @pytest.mark.parametrize("why", ["busy", "elsewhere"])
    def test_a_refused_task_costs_nothing(
        self, stage: Stage, opened: Engine, ledger: Ledger, tmp_path: Path, why: Refusal
    ) -> None:
        """It goes to another worker."""
        if not opened.capabilities.refuses:
            pytest.skip("the engine declares that its workers do not refuse tasks")
        with self.one_that_refuses(why, stage, tmp_path / "elsewhere") as engine:
            summary = stage.run(engine, self.engine, ledger, "invert")
        assert (summary.done, summary.failed) == (COUNT, 0), stage
        assert not stage.charges, stage


def _is_over(pid: int) -> bool:
    """Whether a process has ended, waited for or not."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
