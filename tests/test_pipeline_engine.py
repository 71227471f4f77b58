"""Engine pipeline: its rings, and stages that crash, hang, eat memory, are killed and replaced."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from imageloom.api import process
from imageloom.bench.samples import draw_photo, draw_photos
from imageloom.driver import window
from imageloom.driver.run import Driver
from imageloom.engines import Settings, open_engine
from imageloom.engines.pipeline.engine import STAGES, Pipeline
from imageloom.engines.pipeline.ring import FULL, KEPT, READING, SPAN, WRITING, Ring, arrays_of
from imageloom.errors import EngineFailed, LimitExceeded
from imageloom.model import Frame, Job, Output, Recipe
from imageloom.recipes.pipeline import Pipeline as Steps
from imageloom.records.events import Done, Event, Failed, Retried
from imageloom.records.ledger import Ledger
from imageloom.records.summary import Summary
from imageloom.testing.engines import contents, recipe_of, traces
from program import COMMAND, start, wait_for_outputs, wait_until
from stages import claim_and_stay, hold_the_lock, take_and_stay

SLOW = "resize 400x400 | median_blur 31"

# Rings


@pytest.fixture
def ring() -> Iterator[Ring]:
    with closing(Ring(4, 1 << 20)) as ring:
        yield ring


def noise(*shape: int, dtype: str = "uint8") -> Any:
    return np.random.default_rng(sum(shape)).integers(0, 255, shape).astype(dtype)


def test_chunks_come_in_their_order_and_whole(ring: Ring) -> None:
    """Many times around, of all dtypes and of sizes that leave arrays at odd places."""
    sent = [(noise(n + 1, 7, 3), noise(3, n + 2, dtype="uint16"), noise(2, n + 3, dtype="float32"))
            for n in range(50)]  # fmt: skip

    def send() -> None:
        for number, arrays in enumerate(sent):
            ring.put(number + 1, b"x" * number, arrays)

    thread = threading.Thread(target=send)
    thread.start()
    for number, arrays in enumerate(sent):
        taken = ring.take()
        assert (taken.number, taken.about) == (number + 1, b"x" * number)
        for got, array in zip(arrays_of(taken.pixels, [Frame.of(a) for a in arrays]), arrays, strict=True):
            assert got.flags.aligned
            assert np.array_equal(got, array)
            del got
        taken.pixels.release()
        ring.release(taken.slot)
    thread.join()


def finishes(call: Callable[..., object], *arguments: Any, within: float = 0.15) -> threading.Thread | None:
    """None where the call ends soon; else the thread that it goes on in."""
    thread = threading.Thread(target=call, args=arguments, daemon=True)
    thread.start()
    thread.join(within)
    return thread if thread.is_alive() else None


def test_a_full_ring_holds_back_and_an_empty_one_waits(ring: Ring) -> None:
    for number in range(4):
        assert ring.try_put(number + 1, b"")
    assert not ring.try_put(5, b"")
    putting = finishes(ring.put, 5, b"")
    assert putting
    ring.release(ring.take().slot)
    putting.join(5)
    assert [ring.take().number for _ in range(4)] == [2, 3, 4, 5]
    taking = finishes(ring.take)
    assert taking
    ring.release(0)
    ring.put(6, b"")
    taking.join(5)
    assert not taking.is_alive()


def test_the_budget_bounds_all_chunks_but_one_that_is_alone(ring: Ring) -> None:
    half, large = noise(600, 1000), noise(3000, 3000)
    ring.put(1, b"", [half])
    waiting = finishes(ring.put, 2, b"", [half])
    assert waiting, "two times 0.6 MB is over 1 MiB"
    ring.release(ring.take().slot)
    waiting.join(5)
    ring.release(ring.take().slot)
    assert finishes(ring.put, 3, b"", [large], within=5) is None
    taken = ring.take()
    (got,) = arrays_of(taken.pixels, [Frame.of(large)])
    assert np.array_equal(got, large)
    assert os.fstat(ring._file).st_blocks * 512 > 9_000_000
    del got
    taken.pixels.release()
    ring.release(taken.slot)
    assert os.fstat(ring._file).st_blocks * 512 <= KEPT + (1 << 20), "the pages were given back"


def test_what_is_too_large_is_refused_by_name(ring: Ring) -> None:
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (SPAN + 1,), (0,))
    with pytest.raises(LimitExceeded, match="--tile always"):
        ring.put(1, b"", [huge])


def test_a_machine_without_room_for_a_chunk_says_so(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's own answer, to a range that no file of this size has."""
    from imageloom.errors import UnwritableOutput

    real = os.posix_fallocate
    monkeypatch.setattr(os, "posix_fallocate", lambda file, start, size: real(file, 1 << 62, 1 << 62))
    with pytest.raises(UnwritableOutput, match="not enough shared memory for"):
        ring.put(1, b"x", [noise(10, 10)])
    monkeypatch.undo()
    for number in range(4):  # the slot is free again
        assert ring.try_put(number + 1, b"")


def killed_amid(target: Callable[[Ring], None], ring: Ring, until: Callable[[], bool]) -> None:
    """Run a function in another process and kill -9 it amid its work."""
    other = multiprocessing.get_context("forkserver").Process(target=target, args=(ring,), daemon=True)
    other.start()
    try:
        wait_until(until)
    finally:
        assert other.pid
        os.kill(other.pid, signal.SIGKILL)
        other.join()
        other.close()


def test_a_reader_that_dies_leaves_what_it_had_in_hand(ring: Ring) -> None:
    for number in (5, 6, 7):
        ring.put(number, b"")
    killed_amid(take_and_stay, ring, lambda: bool(ring.held()))
    assert set(ring.held()) == {5}
    assert ring.recover(READING) == [5]
    assert [ring.take().number for _ in range(2)] == [6, 7]
    assert [ring.try_put(n, b"") for n in (8, 9, 10)] == [True, True, False]


def test_a_writer_that_dies_leaves_no_chunk(ring: Ring) -> None:
    killed_amid(claim_and_stay, ring, lambda: ring._state[0] == WRITING)
    assert not ring.has()
    assert ring.recover(WRITING) == [9]
    ring.put(2, b"")
    assert ring.take().number == 2


def test_a_lock_dies_with_its_holder(ring: Ring) -> None:
    killed_amid(hold_the_lock, ring, lambda: ring.readers == 77)
    assert finishes(ring.put, 2, b"", within=5) is None
    assert [ring.take().number for _ in range(2)] == [1, 2]
    assert ring._state[0] != FULL


# The engine


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "FIRST_PAUSE", 0.01)


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


def run(photos: Path, text: str, events: list[Event], **settings: object) -> Summary:
    return process(
        recipe_of(text, "png"),
        photos,
        photos.parent / "out",
        engine="pipeline",
        jobs=2,
        ledger=photos.parent / "ledger.db",
        listeners=[events.append],
        **settings,  # type: ignore[arg-type]
    )


def workers() -> list[psutil.Process]:
    """What multiprocessing's fork server has begun for this process."""
    return [worker for child in psutil.Process().children() for worker in child.children()]


@pytest.mark.parametrize(
    ("step", "kind", "settings"),
    [
        ("crash_on_red", "WorkerLost", {}),
        ("hang_on_red", "ItemTimeout", {"timeout": 1.0}),
        ("eat_memory_on_red", "MemoryError", {"memory": 512 << 20}),
    ],
)
def test_harmful_items_fail_alone(photos: Path, step: str, kind: str, settings: dict[str, object]) -> None:
    events: list[Event] = []
    summary = run(photos, f"{step} | resize 32x32", events, **settings)
    assert (summary.done, summary.failed) == (22, 2)
    failed = {e.result.key: e for e in events if isinstance(e, Failed)}
    assert set(failed) == {"red-0.png", "red-1.png"}
    for event in failed.values():
        assert event.attempt == 3
        assert event.result.failure is not None
        kinds = (kind,) if kind != "MemoryError" else (kind, "OperatorFailed", "WorkerLost")
        assert event.result.failure.kind in kinds
    # One beside an item that crashes may lose its attempt once; never again, for what failed before runs alone.
    most = 1 if step == "hang_on_red" else 2
    assert all(e.attempt <= most for e in events if isinstance(e, Done))
    assert not list((photos.parent / "out").glob(".imageloom*"))
    assert not workers()


def test_a_crash_names_its_signal(photos: Path) -> None:
    events: list[Event] = []
    run(photos, "crash_on_red", events)
    reasons = {
        e.result.failure.message for e in events if isinstance(e, Failed) and e.result.failure is not None
    }
    assert reasons == {
        "its decoding process died: killed by SIGSEGV"
    }  # operators of a file run in the sandbox


def test_all_stages_take_their_time(photos: Path) -> None:
    events: list[Event] = []
    run(photos, "resize 32x32", events)
    for event in events:
        if isinstance(event, Done):
            times = event.result.times
            assert min(times.read, times.decode, times.filter, times.encode, times.write) > 0


def test_a_stage_is_replaced_without_touching_the_others(photos: Path, tmp_path: Path) -> None:
    """Its own filter stage turns what the pipeline leaves as it is to the negative."""
    open_engine("pipeline", Settings(1)).close()  # the fork server stays
    before = traces()[3]
    for name, stages in (("plain", STAGES), ("other", (STAGES[0], "stages:negative", STAGES[2]))):
        job = Job(str(photos), str(tmp_path / name), Recipe((Output((), format="png"),)), include=("red*",))
        with closing(Pipeline(Settings(2), stages)) as engine, Ledger(tmp_path / f"{name}.db") as ledger:
            assert Driver(job, engine, ledger).run().done == 2
    for path in (tmp_path / "plain").iterdir():
        plain, other = cv2.imread(str(path)), cv2.imread(str(tmp_path / "other" / path.name))
        assert plain is not None
        assert other is not None
        assert np.array_equal(255 - plain, other)
    assert traces()[3] == before


def test_a_stage_that_does_not_start_gives_up(photos: Path, tmp_path: Path) -> None:
    stages = (STAGES[0], "stages:missing", STAGES[2])
    job = Job(str(photos), str(tmp_path / "out"), Recipe((Output(()),)), include=("red*",))
    with (
        closing(Pipeline(Settings(1), stages)) as engine,
        Ledger(tmp_path / "ledger.db") as ledger,
        pytest.raises(EngineFailed, match="the stage stages:missing cannot start"),
    ):
        Driver(job, engine, ledger).run()


@pytest.mark.parametrize("text", ["equalize | median_blur 5 | rotate 90", "resize 25% | autocontrast 1"])
def test_tiles_go_through_it(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageloom.tiling.assemble.PART_PIXELS", 700 * 64)
    (tmp_path / "photos").mkdir()
    image = draw_photo(3, 700, 900)
    for suffix in ("jpg", "png", "tif"):
        cv2.imwrite(str(tmp_path / "photos" / f"large.{suffix}"), image)
    for name, engine, tile in (("whole", "serial", "never"), ("tiled", "pipeline", "always")):
        summary = process(
            Steps(text),
            tmp_path / "photos",
            tmp_path / name,
            engine=engine,
            tile=tile,  # type: ignore[arg-type]
            jobs=2,
            ledger=tmp_path / f"{name}.db",
        )
        assert summary.done == 3
    assert contents(tmp_path / "tiled") == contents(tmp_path / "whole")


def test_a_chunk_larger_than_the_ring_goes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageloom.engines.pipeline.engine.BUDGET", 100_000)
    draw_photos(tmp_path / "photos", 6)
    for name in ("serial", "pipeline"):
        process("invert", tmp_path / "photos", tmp_path / name, engine=name, jobs=2, ledger=tmp_path / "db")
    assert len(contents(tmp_path / "serial")) == 6
    assert contents(tmp_path / "pipeline") == contents(tmp_path / "serial")


def keep_killing(engine: Pipeline, stage: int, most: int, done: threading.Event) -> int:
    """Kill a stage's process -9 at random moments; how many times."""
    kills = 0
    while kills < most and not done.wait(random.uniform(0.01, 0.2)):
        victim = engine._rings._stages[stage].process
        with contextlib.suppress(ValueError, ProcessLookupError):  # it was closed just now
            if victim and victim.pid:
                os.kill(victim.pid, signal.SIGKILL)
                kills += 1
    return kills


def kill_stages(tmp_path: Path, stage: int, kills: int, count: int) -> None:
    """One stage is killed again and again: all comes out as serial's, and nothing stays."""
    source, serial = tmp_path / "photos", tmp_path / "serial"
    draw_photos(source, count)
    process(SLOW, source, serial, engine="serial", ledger=tmp_path / "serial.db")
    open_engine("pipeline", Settings(1)).close()  # the fork server stays
    before = traces()[3]
    killed = 0
    for number in range(2 * kills):
        if killed >= kills:
            break
        out, done, events = tmp_path / f"out{number}", threading.Event(), list[Event]()
        job = Job(str(source), str(out), Recipe((Output(Steps(SLOW).steps),)), attempts=20)
        with (
            closing(Pipeline(Settings(2))) as engine,
            Ledger(tmp_path / "ledger.db") as ledger,
            ThreadPoolExecutor(1) as pool,
        ):
            killer = pool.submit(keep_killing, engine, stage, kills - killed, done)
            try:
                summary = Driver(job, engine, ledger, listeners=[events.append]).run()
            finally:
                done.set()
            hits = killer.result()
        killed += hits
        assert (summary.done, summary.failed) == (count, 0)
        assert contents(out) == contents(serial)
        in_hand = engine._rings._stages[stage].threads[1]
        assert sum(isinstance(e, Retried) for e in events) <= in_hand * hits
    assert killed >= kills, "the kills came too late"
    assert not workers()
    assert traces()[3] == before


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_stage_is_killed_and_its_chunks_are_done_again(tmp_path: Path, stage: int) -> None:
    kill_stages(tmp_path, stage, 4, 60)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_stage_is_killed_fifty_times(tmp_path: Path, stage: int) -> None:
    kill_stages(tmp_path, stage, 50, 150)


def test_a_killed_driver_leaves_no_process_and_no_memory(crowd: Path, out: Path, tmp_path: Path) -> None:
    """And the next run does the rest."""
    command = ["run", SLOW, crowd, out, "-j2", "--engine", "pipeline", "--ledger", tmp_path / "ledger.db"]
    driver = start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    family: list[psutil.Process] = []
    try:
        wait_for_outputs(out, driver)
        family = psutil.Process(driver.pid).children(recursive=True)
    finally:
        driver.kill()
        driver.wait()
    assert len(family) >= 4, "the fork server and three stages"
    assert not psutil.wait_procs(family, timeout=20)[1]
    done = subprocess.run(
        [*COMMAND, *map(str, command), "-q"], capture_output=True, text=True, check=True, timeout=100
    )
    assert "0 failed" in done.stdout
    assert len(contents(out)) == len(contents(crowd))


def test_close_ends_stages_even_when_nothing_was_done() -> None:
    open_engine("pipeline", Settings(jobs=2)).close()
    assert not workers()
