"""The suite for faults: an item hangs, a worker dies, a worker refuses a task. It checks time-outs, charges and
results.

A charge is a failed attempt. The driver counts the attempts of an item, and the item fails after the last one.
Only an item in progress may be charged. These tests observe an engine from outside: the events of the driver, the
ledger, and the notes of the operators of `marked`, which record the begin and the end of each image.
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
from imageloom.model import Encoding, Item, Job, Limits, Output, Recipe, Result, Task, Work
from imageloom.recipes.pipeline import Pipeline
from imageloom.recipes.recipe import with_operators
from imageloom.records.events import Event, Failed, Retried
from imageloom.records.ledger import Ledger
from imageloom.records.summary import Summary
from imageloom.stores.names import STAGING
from imageloom.testing.engine_base import EngineBase

COUNT = 30
"""Number of images in a run."""
MARKED = 4
"""Position of the harmful image in the folder. Many other images follow it."""
TIMEOUT = 2.0
"""Time-out of one item, in seconds."""
LONGEST = 5.0
"""Time in seconds after its begin within which a hung item must be ended."""
NOISE = 1.5
"""Further time in seconds for a busy machine."""
PATIENCE = 15.0
"""Time in seconds after which a hung item is released, so that the test of an engine that does not end it
fails."""
MARKED_OPERATORS = str(Path(__file__).with_name("marked.py"))
Refusal = Literal["busy", "elsewhere"]
"""Why a worker refuses a task: its policy rejects it, or it cannot access the storage."""


@dataclass
class Begun:
    """The begin of an image in an operator, from the operator's note."""

    number: int
    pid: int
    at: float
    """Time of the begin, in seconds of the monotonic clock."""
    ended: float = float("inf")


@dataclass
class Stage:
    """A folder with numbered images, one of them marked, and with the notes of the operators."""

    folder: Path
    events: list[tuple[float, Event]] = field(default_factory=list)
    """The events of the driver, each with its time on the monotonic clock."""

    def __post_init__(self) -> None:
        self.photos, self.sink = self.folder / "photos", self.folder / "out"
        self.photos.mkdir(parents=True)
        for number in range(COUNT):
            self._draw(number)
        self.numbers = [int(entry.name.partition(".")[0]) for entry in os.scandir(self.photos)]
        """Create the images. The order of their names is the order of the run."""
        self.marked = self.numbers[MARKED]
        self._draw(self.marked, 255)

    def _draw(self, number: int, blue: int = 0) -> None:
        image = np.full((15, 20, 3), (number, 0, blue), np.uint8)
        (self.photos / key_of(number)).write_bytes(codecs.get("png").encode(image, Encoding(90)))

    def recipe(self, text: str) -> Recipe:
        loaded = with_operators(Recipe((), "exact"), [MARKED_OPERATORS])
        return replace(loaded, outputs=(Output(Pipeline(text).steps),))

    def run(self, engine: Engine, name: str, ledger: Ledger, text: str, attempts: int = 3) -> Summary:
        """Process the whole folder. All images are small."""
        job = Job(str(self.photos), str(self.sink), self.recipe(text), tile="never", attempts=attempts)
        summary = Driver(job, engine, ledger, name, [self._listen]).run()
        self._check_ledger(ledger, summary)
        return summary

    def _listen(self, event: Event) -> None:
        self.events.append((time.monotonic(), event))

    def _check_ledger(self, ledger: Ledger, summary: Summary) -> None:
        """Check that the ledger has the same number of attempts as the events."""
        failures = self.charges
        for item in ledger.items(summary.job):
            last = item.state == "done"
            assert item.attempts == failures[item.key] + last, f"{item.key} in the ledger"

    def release(self) -> None:
        """Release all waiting and hung operators."""
        (self.folder / "release").touch()

    @contextmanager
    def released_in_the_end(self, seconds: float = PATIENCE) -> Iterator[threading.Timer]:
        """Release hung operators after some seconds. The timer is alive until then."""
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
        """The images begun so far, in order."""
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
        """The images that have begun and not ended."""
        return [one for one in self.begun if one.ended == float("inf")]

    @property
    def charged(self) -> list[tuple[float, Failed | Retried]]:
        """The failed attempts, each with the time at which the driver reported it."""
        return [(at, event) for at, event in self.events if isinstance(event, Failed | Retried)]

    @property
    def charges(self) -> Counter[str]:
        """Number of failed attempts of each item."""
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
    """Wait for a condition. Returns whether it was true before the time-out."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


class EngineFaults(EngineBase):
    """The suite of time-outs, charges and results by item."""

    processes: ClassVar[int] = 2
    """Number of worker processes that run operators."""
    in_hand: ClassVar[int] = 1
    """Maximum number of items in progress in one worker process."""

    @pytest.fixture
    def stage(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
        """Request it before the engine is opened, because its workers inherit the environment variable."""
        monkeypatch.setenv("IMAGELOOM_STAGE", str(tmp_path / "stage"))
        return Stage(tmp_path / "stage")

    @pytest.mark.parametrize(("harm", "attempts"), [("hang", 1), ("spin", 2)])
    def test_a_hung_item_is_ended_at_its_time_out(
        self, stage: Stage, ledger: Ledger, harm: str, attempts: int
    ) -> None:
        """Only this item is charged, although others are in progress."""
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
        """All workers process items that wait. One worker is killed, then the others continue."""
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
        """An item that kills its worker each time fails after three attempts."""
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
        """The last item of a task waits until the first item's result is reported."""
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
        """The engine with two workers. One of them refuses each task.

        Args:
            folder: a folder that does not contain the images.
        """
        raise NotImplementedError("override this for an engine whose workers can refuse tasks")

    @pytest.mark.parametrize("why", ["busy", "elsewhere"])
    def test_a_refused_task_costs_nothing(
        self, stage: Stage, opened: Engine, ledger: Ledger, tmp_path: Path, why: Refusal
    ) -> None:
        """A refused task goes to another worker, and no item is charged."""
        if not opened.capabilities.refuses:
            pytest.skip("the engine declares that its workers do not refuse tasks")
        with self.one_that_refuses(why, stage, tmp_path / "elsewhere") as engine:
            summary = stage.run(engine, self.engine, ledger, "invert")
        assert (summary.done, summary.failed) == (COUNT, 0), stage
        assert not stage.charges, stage


def _is_over(pid: int) -> bool:
    """Whether a process has ended. It may be a zombie."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
