"""The conformance suite for engines, as a pytest class. Derive from it and set the engine's name:

    class TestThreads(EngineTests):
        engine = "threads"

It runs whole jobs with the driver, and compares the outputs with direct calls of the libraries.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import psutil
import pytest
import simplejpeg
from msgspec.structs import replace

from imageloom.bench.samples import draw_photo
from imageloom.driver import window
from imageloom.driver.run import Driver
from imageloom.engines import Engine, Settings
from imageloom.engines.serial import Serial
from imageloom.model import Format, Item, Job, Limits, Output, Recipe, Result, Task, Work
from imageloom.recipes.pipeline import Pipeline
from imageloom.recipes.recipe import with_operators
from imageloom.records.events import Done, Event, Failed, Planned, Retried, Started
from imageloom.records.ledger import Ledger
from imageloom.records.summary import Summary
from imageloom.stores.names import STAGING
from imageloom.testing.engine_base import EngineBase
from imageloom.testing.engine_faults import EngineFaults
from imageloom.testing.memory import shared_memory
from imageloom.testing.scripted import ScriptedEngine

COUNT = 12
PIPELINE = "resize 64x48 | grayscale"


EXIF = (
    b"\xff\xe1\0\x2eExif\0\0MM\0\x2a\0\0\0\x08\0\1"  # one entry: the maker, 11 characters at position 26
    b"\1\x0f\0\2\0\0\0\x0b\0\0\0\x1a\0\0\0\0Loom works\0\0"
)
"""A segment of a JPEG with EXIF."""
HARMFUL = str(Path(__file__).parent / "harmful.py")
"""Path of the file with operators that fail, for `Recipe.operators`."""


def recipe_of(text: str, format: Format | None = None) -> Recipe:
    """A recipe that loads the harmful operators."""
    loaded = with_operators(Recipe((), "exact"), [HARMFUL])
    return replace(loaded, outputs=(Output(Pipeline(text).steps, format=format),))


def expected_bytes(data: bytes) -> bytes:
    """The expected output of PIPELINE for a file, by direct calls of the libraries."""
    if data.startswith(b"\x89PNG"):
        whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert whole is not None
        small = cv2.resize(whole, (64, 48), interpolation=cv2.INTER_AREA)
        return cv2.imencode(".png", cv2.cvtColor(small, cv2.COLOR_BGR2GRAY))[1].tobytes()
    small = cv2.resize(simplejpeg.decode_jpeg(data), (64, 48), interpolation=cv2.INTER_AREA)
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return bytes(simplejpeg.encode_jpeg(gray[:, :, None], 85, "GRAY", "Gray"))


Traces = tuple[set[threading.Thread], set[int], set[str], int]


def contents(folder: Path) -> dict[str, bytes]:
    """Contents of all files below a folder, by relative path, including hidden files."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if not p.is_dir()}


def written(result: Result) -> list[tuple[str, int]]:
    """Names and sizes of the outputs, without the names of the staged files."""
    return [(w.name, w.size) for w in result.written]


class EngineCore(EngineBase):
    """The core of the suite, for engines that take seconds to open. Use `EngineTests` in longer test runs."""

    stray_files: ClassVar[int] = 0
    """Number of files, such as logs, that the engine's library may keep open until the process ends."""
    stray_threads: ClassVar[str] = "-"
    """Prefix of the names of threads that the engine's library keeps until the process ends."""

    @pytest.fixture
    def photos(self, tmp_path: Path) -> Path:
        """JPEG and PNG photos in folders, some with equal names."""
        folder = tmp_path / "photos"
        for number in range(COUNT):
            photo = draw_photo(number, 160, 120)
            path = folder / f"day{number % 3}" / f"{number // 3}.{'png' if number % 4 == 0 else 'jpg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".png":
                cv2.imwrite(str(path), photo[:, :, ::-1])
            else:
                path.write_bytes(simplejpeg.encode_jpeg(photo))
        return folder

    def drive(
        self,
        engine: Engine,
        photos: Path,
        sink: Path,
        ledger: Ledger,
        events: list[Event],
        text: str = PIPELINE,
    ) -> Summary:
        job = Job(str(photos), str(sink), recipe_of(text))
        return Driver(job, engine, ledger, self.engine, [events.append]).run()

    def tasks(self, photos: Path, sink: Path) -> list[Task]:
        """Tasks as the driver makes them, with a prepared sink."""
        (sink / STAGING).mkdir(parents=True)
        keys = sorted(contents(photos))
        works = [Work(Item(key), (key,), number) for number, key in enumerate(keys)]
        return [
            Task(number, "1", str(photos), str(sink), recipe_of(PIPELINE), Limits(), tuple(pair))
            for number, pair in enumerate(zip(works[::2], works[1::2], strict=True), 1)
        ]

    # What it makes

    def test_bytes_equal_a_direct_computation(
        self, opened: Engine, photos: Path, sink: Path, ledger: Ledger, events: list[Event]
    ) -> None:
        summary = self.drive(opened, photos, sink, ledger, events)
        assert (summary.done, summary.failed, summary.skipped) == (COUNT, 0, 0)
        assert contents(sink) == {key: expected_bytes(data) for key, data in contents(photos).items()}

    # What fails

    def test_a_failing_item_fails_alone_and_by_name(
        self, opened: Engine, photos: Path, sink: Path, ledger: Ledger, events: list[Event]
    ) -> None:
        cut = photos / "day1" / "0.jpg"
        cut.write_bytes(cut.read_bytes()[:-600])
        summary = self.drive(opened, photos, sink, ledger, events)
        assert (summary.done, summary.failed) == (COUNT - 1, 1)
        (failed,) = [event for event in events if isinstance(event, Failed)]
        assert failed.result.key == "day1/0.jpg"
        assert failed.result.failure is not None
        assert failed.result.failure.kind == "CorruptImage"
        assert failed.attempt == 1, "what is corrupt stays so: it is not tried again"
        assert set(contents(sink)) == set(contents(photos)) - {"day1/0.jpg"}

    def test_an_operator_that_raises_is_tried_three_times(
        self, opened: Engine, photos: Path, sink: Path, ledger: Ledger, events: list[Event]
    ) -> None:
        cv2.imwrite(str(photos / "dark.png"), np.zeros((50, 50), np.uint8))
        summary = self.drive(opened, photos, sink, ledger, events, "raise_on_dark")
        assert (summary.done, summary.failed) == (COUNT, 1)
        assert [(e.result.key, e.attempt) for e in events if isinstance(e, Retried)] == [
            ("dark.png", 1),
            ("dark.png", 2),
        ]
        (failed,) = [event for event in events if isinstance(event, Failed)]
        assert (failed.result.key, failed.attempt) == ("dark.png", 3)
        assert failed.result.failure is not None
        assert failed.result.failure.kind == "OperatorFailed"
        assert "raise_on_dark" in failed.result.failure.message
        assert "too dark to see" in failed.result.failure.message
        (recorded,) = ledger.items(summary.job, "failed")
        assert (recorded.key, recorded.attempts) == ("dark.png", 3)
        assert recorded.failure is not None
        assert "in raise_on_dark" in recorded.failure.trace, "the operator's own line has come over"

    def test_a_lost_worker_costs_another_attempt_of_its_items_only(
        self,
        opened: Engine,
        photos: Path,
        sink: Path,
        ledger: Ledger,
        events: list[Event],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(window, "FIRST_PAUSE", 1.0)  # all first attempts are submitted before
        scripted = ScriptedEngine(opened, lost={2, 4})
        summary = self.drive(scripted, photos, sink, ledger, events)
        assert (summary.done, summary.failed) == (COUNT, 0)
        lost = {work.item.key for number in (2, 4) for work in scripted.submitted[number - 1].work}
        assert {e.result.key for e in events if isinstance(e, Retried)} == lost
        attempts = Counter(work.item.key for task in scripted.submitted for work in task.work)
        assert attempts == {key: 2 if key in lost else 1 for key in contents(photos)}
        assert contents(sink) == {key: expected_bytes(data) for key, data in contents(photos).items()}

    # How it is driven

    def test_doing_a_task_twice_is_harmless(
        self, opened: Engine, photos: Path, sink: Path, ledger: Ledger, events: list[Event]
    ) -> None:
        scripted = ScriptedEngine(opened, twice=range(10_000))
        summary = self.drive(scripted, photos, sink, ledger, events)
        assert (summary.done, summary.failed) == (COUNT, 0)
        assert Counter(type(e) for e in events)[Done] == COUNT
        assert contents(sink) == {key: expected_bytes(data) for key, data in contents(photos).items()}

    # What it leaves

    def test_close_leaves_nothing_behind(
        self, photos: Path, sink: Path, ledger: Ledger, events: list[Event]
    ) -> None:
        first = self.open_engine()  # shared by all engines of a process, such as the fork server
        self.drive(first, photos, sink.with_name("first"), ledger, events)
        first.close()
        before = traces()
        engine = self.open_engine()
        self.drive(engine, photos, sink, ledger, events)
        engine.close()
        self._check_traces(before)
        assert not (sink / STAGING).exists()

    def _check_traces(self, before: Traces) -> None:
        """Check that no new threads, processes, shared memory or open files remain.

        Files are counted only, and libraries close theirs in threads of their own (gRPC): they have some seconds.
        So has shared memory: it is the whole machine's, and other programs' comes and goes.
        """
        threads, children, shared, files = traces()
        assert {one for one in threads if not one.name.startswith(self.stray_threads)} <= before[0]
        assert children <= before[1]
        left = shared - before[2]
        most, until = before[3] + self.stray_files, time.monotonic() + 30
        while (left or files > most) and time.monotonic() < until:
            time.sleep(0.05)
            _, _, shared, files = traces()
            left &= shared
        assert not left
        assert files <= most


class EngineTests(EngineCore, EngineFaults):
    """The suite. Override what differs: the class attributes, and `one_that_refuses`."""

    # What it makes

    def test_outcomes_equal_the_serial_engines(self, opened: Engine, photos: Path, tmp_path: Path) -> None:
        mine, serial = self.tasks(photos, tmp_path / "a"), self.tasks(photos, tmp_path / "b")
        futures = [opened.submit(task) for task in mine]
        for future, task in zip(futures, serial, strict=True):
            outcome, expected = future.result(60), Serial(Settings()).submit(task).result()
            assert outcome.task == task.id
            assert outcome.worker
            assert [(r.key, written(r), r.failure, r.pixels) for r in outcome.results] == [
                (r.key, written(r), r.failure, r.pixels) for r in expected.results
            ]
            assert all(r.times.total > 0 and r.started > 0 for r in outcome.results)
        assert sorted(contents(tmp_path / "a").values()) == sorted(contents(tmp_path / "b").values())

    def test_losses_and_warnings_arrive(
        self, opened: Engine, sink: Path, ledger: Ledger, events: list[Event], tmp_path: Path
    ) -> None:
        photos = tmp_path / "damaged"
        photos.mkdir()
        photo = simplejpeg.encode_jpeg(draw_photo(0, 64, 48))
        (photos / "damaged.jpg").write_bytes(photo[:2] + EXIF + b"\0" + photo[2:])  # a byte between segments
        (photos / "plain.jpg").write_bytes(photo)
        recipe = replace(recipe_of("invert"), outputs=(Output((), format="bmp"),))
        job = Job(str(photos), str(sink), recipe)
        summary = Driver(job, opened, ledger, self.engine, [events.append]).run()
        assert (summary.done, summary.lost, summary.dropped) == (2, 1, {"EXIF": 1})
        assert (summary.damaged, summary.incomplete) == (1, 0)
        found = {e.result.key: e.result for e in events if isinstance(e, Done)}
        assert found["damaged.jpg"].dropped == ("EXIF",)
        assert found["damaged.jpg"].warnings
        assert (found["plain.jpg"].dropped, found["plain.jpg"].warnings) == ((), ())

    # What fails

    def test_what_comes_back_is_done_by_a_later_attempt(
        self, opened: Engine, photos: Path, sink: Path, ledger: Ledger, events: list[Event]
    ) -> None:
        path, away = photos / "day0" / "1.jpg", photos / "away"
        expected = {key: expected_bytes(data) for key, data in contents(photos).items()}

        def hide(event: Event) -> None:
            if isinstance(event, Planned) and event.item.key == "day0/1.jpg":
                path.rename(away)
            elif isinstance(event, Retried):
                away.rename(path)

        job = Job(str(photos), str(sink), recipe_of(PIPELINE))
        summary = Driver(job, opened, ledger, self.engine, [events.append, hide]).run()
        assert (summary.done, summary.failed) == (COUNT, 0)
        attempts = {e.result.key: e.attempt for e in events if isinstance(e, Done)}
        assert attempts == dict.fromkeys(expected, 1) | {"day0/1.jpg": 2}
        assert contents(sink) == expected

    def test_an_item_that_takes_its_worker_along_each_time_is_given_up(
        self, opened: Engine, photos: Path, sink: Path, ledger: Ledger, events: list[Event]
    ) -> None:
        scripted = ScriptedEngine(opened, lost=range(10_000))
        summary = self.drive(scripted, photos, sink, ledger, events)
        assert (summary.done, summary.failed) == (0, COUNT)
        assert Counter(e.attempt for e in events if isinstance(e, Retried)) == {1: COUNT, 2: COUNT}
        assert {e.result.failure.kind for e in events if isinstance(e, Failed) and e.result.failure} == {
            "WorkerLost"
        }
        assert contents(sink) == {}

    # How it is driven

    def test_tasks_in_flight_are_bounded(
        self,
        opened: Engine,
        photos: Path,
        sink: Path,
        ledger: Ledger,
        events: list[Event],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("imageloom.recipes.plan.BATCH_ITEMS", 1)
        scripted = ScriptedEngine(opened, hold=window.DEPTH * opened.capacity + 1)
        try:
            summary = self.drive(scripted, photos, sink, ledger, events)
        finally:
            scripted.close()
        assert summary.done == COUNT
        assert 1 < scripted.most_in_flight <= window.DEPTH * scripted.most_capacity

    def test_bytes_in_flight_are_bounded(
        self, opened: Engine, photos: Path, sink: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With memory for one item, only one item is in flight, whatever the engine's capacity."""
        monkeypatch.setattr("imageloom.recipes.plan.BATCH_ITEMS", 1)
        scripted = ScriptedEngine(opened, hold=2)
        job = Job(str(photos), str(sink), recipe_of(PIPELINE), memory=200_000)
        try:
            summary = Driver(job, scripted, ledger).run()
        finally:
            scripted.close()
        assert summary.done == COUNT
        assert scripted.most_in_flight == 1

    def test_outcomes_may_come_in_any_order(
        self, opened: Engine, photos: Path, sink: Path, ledger: Ledger, events: list[Event]
    ) -> None:
        scripted = ScriptedEngine(opened, hold=window.DEPTH * opened.capacity)
        try:
            summary = self.drive(scripted, photos, sink, ledger, events)
        finally:
            scripted.close()
        assert summary.done == COUNT
        started = [task.work[0].item.key for task in scripted.submitted]
        finished = [e.result.key for e in events if isinstance(e, Done) and e.result.key in started]
        assert sorted(started) == sorted(finished)
        assert started != finished
        assert contents(sink) == {key: expected_bytes(data) for key, data in contents(photos).items()}

    def test_stopping_finishes_what_is_in_hand_and_the_next_run_does_the_rest(
        self, opened: Engine, photos: Path, sink: Path, ledger: Ledger, events: list[Event]
    ) -> None:
        job = Job(str(photos), str(sink), recipe_of(PIPELINE))

        def stop_at_first(event: Event) -> None:
            if isinstance(event, Started):
                driver.stop()

        driver = Driver(job, opened, ledger, self.engine, [events.append, stop_at_first])
        first = driver.run()
        assert first.interrupted
        assert first.exit_code == 130
        begun = sum(e.items for e in events if isinstance(e, Started))
        assert 0 < begun < COUNT
        assert (first.failed, first.done <= begun) == (
            0,
            True,
        )  # of a task, only the items in progress are done
        assert len(contents(sink)) == first.done
        second = self.drive(opened, photos, sink, ledger, events)
        assert (second.done, second.skipped, second.failed) == (COUNT - first.done, first.done, 0)
        assert contents(sink) == {key: expected_bytes(data) for key, data in contents(photos).items()}

    # What it leaves

    def test_close_cancels_what_has_not_begun(self, photos: Path, tmp_path: Path) -> None:
        """All futures of a closed engine end, with a result, an error or a cancellation."""
        before = traces()
        engine = self.open_engine()
        futures = [engine.submit(task) for task in self.tasks(photos, tmp_path / "out")]
        engine.close()
        assert all(future.done() for future in futures)
        self._check_traces(before)


def traces() -> Traces:
    """Resources that an engine could leave: threads, child processes, shared memory, open files, sockets."""
    process = psutil.Process()
    shared = shared_memory()
    return (
        set(threading.enumerate()),
        {child.pid for child in process.children(recursive=True)},
        shared,
        process.num_fds(),
    )
