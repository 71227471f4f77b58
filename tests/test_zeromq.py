"""Engine zeromq: workers that are killed, stopped, late, strange or hostile."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from msgspec.structs import replace

from guests import keys, remote
from imageloom.api import process
from imageloom.bench.samples import draw_photos
from imageloom.engines.zeromq import engine as zeromq
from imageloom.model import Output, Recipe
from imageloom.recipes.pipeline import Pipeline
from imageloom.recipes.recipe import with_operators
from imageloom.records.events import Done, Event, Failed, Retried
from imageloom.testing.engines import HARMFUL, recipe_of
from program import contents, free_port, imageloom, start, wait_until

OPERATORS = '''
import time
from imageloom import Pixels, operator

@operator("point", examples=("nap 1",))
def nap(image: Pixels, *, seconds: float) -> Pixels:
    """Take long, without taking the processor."""
    time.sleep(seconds)
    return image

@operator("point", examples=("toil_on_red 1",))
def toil_on_red(image: Pixels, *, seconds: float) -> Pixels:
    """Take long over a red image, and the interpreter too."""
    until = time.monotonic() + (seconds if (image == (255, 0, 0)).all() else 0)
    while time.monotonic() < until:
        pass
    return image
'''


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("operators") / "slow.py"
    path.write_text(OPERATORS)
    return str(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 photos, two of them red."""
    folder = tmp_path / "photos"
    draw_photos(folder, 22)
    red = np.zeros((40, 60, 3), np.uint8)
    red[:, :, 2] = 255
    for number in range(2):
        assert cv2.imwrite(str(folder / f"red-{number}.png"), red)
    return folder


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageloom.recipes.plan.BATCH_ITEMS", 2)


@pytest.fixture
def _quick_hearts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeromq, "HEARTBEAT", 0.1)
    monkeypatch.setattr(zeromq, "SILENCE", 1.0)
    monkeypatch.setattr(zeromq, "TICK", 0.05)


class Ran:
    """One run on this engine, and its events."""

    def __init__(
        self, pipeline: Recipe | str, photos: Path, *listeners: Callable[[Event], None], **more: object
    ) -> None:
        self.events: list[Event] = []
        self.out = photos.parent / "out"
        self.summary = process(
            pipeline,
            photos,
            self.out,
            engine="zeromq",
            ledger=photos.parent / "ledger.db",
            listeners=[self.events.append, *listeners],
            **more,  # type: ignore[arg-type]
        )

    @property
    def retried(self) -> Counter[str]:
        return Counter(e.result.key for e in self.events if isinstance(e, Retried))

    @property
    def attempts(self) -> dict[str, int]:
        done = [(e.result.key, e.attempt) for e in self.events if isinstance(e, Done)]
        assert len(dict(done)) == len(done), "nothing is published twice"
        return dict(done)

    @property
    def workers(self) -> set[str]:
        return {e.worker.partition("/")[0] for e in self.events if isinstance(e, Done)}


def serial(pipeline: Recipe | str, photos: Path) -> dict[str, bytes]:
    out = photos.parent / "serial"
    process(pipeline, photos, out, engine="serial", ledger=photos.parent / "serial.db")
    return contents(out)


EARLIER: set[int] = set()
"""Processes that tests of other modules have left."""


@pytest.fixture(autouse=True)
def note_earlier() -> None:
    EARLIER.clear()
    EARLIER.update(child.pid for child in children())


def children() -> list[psutil.Process]:
    """Workers of this process: what multiprocessing's fork server has begun."""
    found = [grandchild for child in psutil.Process().children() for grandchild in child.children()]
    return [child for child in found if child.pid not in EARLIER]


def workers() -> list[psutil.Process]:
    """Those that work. What forks their decoding processes has one thread, a worker has more."""
    found = []
    for child in children():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child] if child.num_threads() > 1 else []
    return found


def slow(text: str, operators: str) -> Recipe:
    """A recipe that knows the operators above."""
    loaded = with_operators(Recipe(()), [operators])
    return replace(loaded, outputs=(Output(Pipeline(f"{text} | resize 32x32").steps, format="png"),))


# Workers that die, stop, take long


def test_killed_workers_are_replaced_and_lose_one_item_each(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 80)
    killed: list[int] = []
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.15) and len(killed) < 5:
            for one in (
                workers()[:1] if len(killed) % 2 else children()[:1]
            ):  # the first one may fork for a worker
                os.kill(one.pid, signal.SIGKILL)
                killed.append(one.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    pipeline = "resize 400x400 | median_blur 31"
    try:
        ran = Ran(pipeline, tmp_path / "photos", jobs=2)
    finally:
        done.set()
        thread.join()
    assert len(killed) > 1
    assert (ran.summary.done, ran.summary.failed) == (80, 0)
    assert sum(ran.retried.values()) <= len(killed)
    assert len(ran.attempts) == 80
    assert contents(ran.out) == serial(pipeline, tmp_path / "photos")
    assert not children()


@pytest.mark.usefixtures("_quick_hearts")
def test_who_was_stopped_for_too_long_comes_too_late(
    photos: Path, operators: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "imageloom.zeromq")
    stopped: list[psutil.Process] = []
    recipe = slow("nap 0.1", operators)

    def stop_and_go_on(event: Event) -> None:
        if isinstance(event, Done) and not stopped:
            stopped.extend(workers()[:1])
            stopped[0].suspend()
        elif isinstance(event, Retried):
            stopped[0].resume()

    ran = Ran(recipe, photos, stop_and_go_on, jobs=2)
    assert (ran.summary.done, ran.summary.failed) == (24, 0)
    lost = [e.result.failure for e in ran.events if isinstance(e, Retried)]
    reason = f"its worker {stopped[0].pid} sent nothing for"
    assert [f.kind for f in lost if f and reason in f.message] == ["WorkerLost"]
    assert len(ran.attempts) == 24
    assert contents(ran.out) == serial(recipe, photos)
    assert "refused the" in caplog.text, "its result, or the beat of its heart before that"


@pytest.mark.usefixtures("_quick_hearts")
def test_a_task_ten_times_as_long_as_silence_may_be_runs_once(photos: Path, operators: str) -> None:
    (photos / "red-1.png").unlink()
    ran = Ran(slow(f"toil_on_red {10 * zeromq.SILENCE:g}", operators), photos, jobs=2)
    assert (ran.summary.done, ran.summary.failed) == (23, 0)
    assert not ran.retried
    assert max(e.result.times.filter for e in ran.events if isinstance(e, Done)) >= 10 * zeromq.SILENCE


@pytest.mark.parametrize(
    ("operator", "kind", "settings"),
    [
        ("crash_on_red", "WorkerLost", {}),
        ("hang_on_red", "ItemTimeout", {"timeout": 0.5}),
        pytest.param("eat_memory_on_red", "MemoryError", {"memory": 512 << 20}, marks=pytest.mark.long),
        pytest.param("crash_on_red", "WorkerLost", {"threads": 2}, marks=pytest.mark.long),
        pytest.param("hang_on_red", "ItemTimeout", {"timeout": 0.5, "threads": 2}, marks=pytest.mark.long),
    ],
)
def test_harmful_items_fail_alone_after_three_attempts(
    photos: Path, operator: str, kind: str, settings: dict[str, object]
) -> None:
    ran = Ran(recipe_of(f"{operator} | resize 32x32", "png"), photos, jobs=2, **settings)
    failed = {e.result.key: e for e in ran.events if isinstance(e, Failed)}
    assert set(failed) == {"red-0.png", "red-1.png"}
    for event in failed.values():
        assert event.attempt == 3
        assert event.result.failure is not None
        assert event.result.failure.kind in {kind} | ({"OperatorFailed"} if kind == "MemoryError" else set())
    assert len(ran.attempts) == 22
    assert all(attempt <= 2 for attempt in ran.attempts.values()), "a suspect runs alone"
    assert not children()


# Workers elsewhere


def test_a_worker_comes_late_and_leaves_early(photos: Path, operators: str) -> None:
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    recipe = slow("nap 0.15", operators)
    with remote(address, photos.parent, "--operators", operators) as guest:
        theirs = 0

        def see_off(event: Event) -> None:
            nonlocal theirs
            if isinstance(event, Done) and ":" in event.worker:
                theirs += 1
                if theirs == 2:
                    guest.terminate()

        ran = Ran(recipe, photos, see_off, jobs=1, bind=address, keys=keys()[0])
        assert guest.wait(60) == 0
    assert ran.summary.done == 24
    assert len(ran.workers) == 2
    assert 2 <= theirs < 12
    assert not ran.retried, "who hands back what it has costs no attempts"
    assert contents(ran.out) == serial(recipe, photos)


def test_a_remote_worker_that_hangs_ends_itself_and_is_replaced(photos: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    (photos / "red-1.png").unlink()
    recipe = recipe_of("hang_on_red | resize 32x32", "png")
    with remote(address, photos.parent, "--operators", HARMFUL, "--sandbox", "off") as guest:
        ran = Ran(
            recipe, photos, bind=address, keys=keys()[0], timeout=0.5, sandbox="off"
        )  # the worker hangs
        guest.terminate()
        _, said = guest.communicate(timeout=60)
    assert (ran.summary.done, ran.summary.failed) == (22, 1)
    (failed,) = [e for e in ran.events if isinstance(e, Failed)]
    assert failed.result.failure is not None
    assert (failed.result.key, failed.attempt) == ("red-0.png", 3)
    assert failed.result.failure.kind == "ItemTimeout"
    assert set(ran.attempts.values()) == {1}
    assert said.count("starting a replacement") in (2, 3), "the last one may find it leaving"


def test_the_driver_is_killed_and_its_workers_serve_the_next_one(photos: Path, operators: str) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    out = photos.parent / "out"
    pipeline = "nap 0.1 | resize 32x32"
    options = ("--operators", operators, "--format", "png", "--ledger", photos.parent / "ledger.db")
    command = [
        "run",
        pipeline,
        photos,
        out,
        *options,
        "--engine",
        "zeromq",
        "-j",
        1,
        "--bind",
        address,
        "--keys",
        keys()[0],
        "--items-at-once",
        1,
    ]
    with remote(address, photos.parent, "--operators", operators) as guest:
        first = start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: len(list(out.glob("*.png"))) >= 6 or first.poll() is not None)
        local = psutil.Process(first.pid).children(recursive=True)
        first.kill()
        first.wait(60)
        published = len(list(out.glob("*.png")))
        assert 0 < published < 24
        _, alive = psutil.wait_procs(local, timeout=60)
        assert local
        assert not alive, "its own workers end with it"
        again = imageloom(*command, "--json")
        assert again.returncode == 0, again.stderr
        assert guest.poll() is None
        guest.terminate()
        assert guest.wait(60) == 0
    assert f'"worker":"{socket.gethostname()}:' in again.stdout.replace('": "', '":"')
    assert contents(out) == serial(slow("nap 0.1", operators), photos)


def test_what_lies_outside_of_a_workers_roots_fails_by_name(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageloom.scheduling.refusals.PATIENCE", 1.0)
    address = f"tcp://127.0.0.1:{free_port()}"
    elsewhere = photos.parent / "elsewhere"
    elsewhere.mkdir()
    with remote(address, elsewhere):
        ran = Ran("flip", photos, bind=address, keys=keys()[0])
    failures = {e.result.failure.kind for e in ran.events if isinstance(e, Failed) if e.result.failure}
    assert failures == {"TaskRefused"}
    assert not contents(ran.out)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_processes_with_two_threads(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 200)
    pipeline = "resize 400x400 | median_blur 31"
    ran = Ran(pipeline, tmp_path / "photos", jobs=2, threads=2)
    assert ran.summary.done == 200
    threads = {e.worker for e in ran.events if isinstance(e, Done)}
    assert len(threads) == 4
    assert contents(ran.out) == serial(pipeline, tmp_path / "photos")
