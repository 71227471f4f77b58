"""The timeline of a run: that it is what happened, that a kill leaves it readable, that it stays small."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from imageloom.model import Item, Job, Limits, Outcome, Output, Recipe, Result, Task, Times, Work
from imageloom.recipes.pipeline import Pipeline
from imageloom.recipes.recipe import with_operators
from imageloom.records.events import Began, Collected, Done, Started
from imageloom.records.ledger import Ledger, default_path
from imageloom.records.recorder import PERIOD, Recorder
from imageloom.records.timeline import (
    ASSEMBLED,
    DONE,
    FAILED,
    KEPT,
    PART,
    RETRIED,
    WHOLE,
    Timeline,
    folder_of,
    path_of,
    prune,
    read,
)
from imageloom.system import machine
from imageloom.testing.engines import HARMFUL
from program import Run, contents, draw, imageloom, kill, start, wait_until

STAGES = Times.__struct_fields__
JOB = Job("in", "out", Recipe((Output(Pipeline("grayscale").steps),)))


def the_timeline(job: int = 1) -> Timeline:
    return read(path_of(default_path(), job))


@pytest.mark.parametrize("engine", ["serial", "threads", "processes"])
def test_what_is_recorded_is_what_the_ledger_says(photos: Path, out: Path, engine: str) -> None:
    (photos / "cut.jpg").write_bytes((photos / "1.jpg").read_bytes()[:900])
    ran = Run("gaussian_blur 2", photos, out, engine=engine, jobs=2)
    timeline = the_timeline(ran.summary.job)
    found = {a.key: a for a in timeline.attempts}
    with Ledger() as ledger:
        items = list(ledger.items(ran.summary.job))
        (job,) = ledger.jobs()
    assert len(items) == len(found) == len(timeline.attempts) == 7
    assert (timeline.opening.engine, timeline.opening.workers) == (job.engine, job.workers)
    assert timeline.opening.began == pytest.approx(job.started, abs=0.5)
    for item in items:
        one = found[item.key]
        assert one.outcome == (DONE if item.state == "done" else FAILED)
        assert (one.number, one.pixels, one.made_at) == (item.attempts, item.pixels, WHOLE)
        assert timeline.workers[one.worker] == item.worker
        assert one.started / 1e6 == pytest.approx(item.started - timeline.opening.began, abs=2e-6)
        for stage in ("read", "decode", "filter", "encode", "write"):
            assert getattr(one, stage) / 1e6 == pytest.approx(getattr(item.times, stage), abs=1.1e-6)
        assert one.kind == (item.failure.kind if item.failure else "")
        assert one.size == (photos / item.key).stat().st_size
        if item.state == "done":
            assert one.written == (out / item.key).stat().st_size
            assert 0 <= one.submitted <= one.started + 2000
            assert one.started + one.busy <= one.collected + 2000 <= timeline.closing.at + 2000  # type: ignore[union-attr]
            assert one.publish > 0


def test_the_parts_of_a_large_image_add_up_to_it(tmp_path: Path, out: Path) -> None:
    source = draw(tmp_path / "one" / "large.png", 3, 1400, 3000)
    ran = Run("gaussian_blur 2 | equalize", source, out, engine="threads", jobs=2, tile="always")
    attempts = the_timeline(ran.summary.job).attempts
    parts = [a for a in attempts if a.made_at == PART]
    (whole,) = [a for a in attempts if a.made_at == ASSEMBLED]
    assert len(parts) >= 2
    assert len({a.part for a in parts}) == len(parts)
    for stage in STAGES:
        assert sum(getattr(a, stage) for a in parts) == pytest.approx(
            getattr(whole, stage), abs=len(parts) + 1
        )
    with Ledger() as ledger:
        (item,) = ledger.items(ran.summary.job)
    assert whole.decode / 1e6 == pytest.approx(item.times.decode, abs=2e-6)


@pytest.mark.parametrize("sandbox", ["auto", "off"])
def test_deaths_and_further_attempts_are_there(photos: Path, out: Path, tmp_path: Path, sandbox: str) -> None:
    red = photos / "red.png"
    import cv2
    import numpy as np

    cv2.imwrite(str(red), np.full((60, 80, 3), (0, 0, 255), np.uint8))
    loaded = with_operators(Recipe((), "exact"), [HARMFUL])
    recipe = replace(loaded, outputs=(Output(Pipeline("crash_on_red | grayscale").steps),))
    ran = Run(recipe, photos, out, engine="processes", jobs=2, sandbox=sandbox)  # type: ignore[arg-type]
    assert ran.failed == {"red.png": "WorkerLost"}
    timeline = the_timeline(ran.summary.job)
    fatal = [a for a in timeline.attempts if a.key == "red.png"]
    assert [(a.number, a.outcome, a.kind) for a in fatal] == [
        (1, RETRIED, "WorkerLost"),
        (2, RETRIED, "WorkerLost"),
        (3, FAILED, "WorkerLost"),
    ]
    assert all(a.lost > 0 for a in fatal)
    if sandbox == "off":  # otherwise only the decoding process dies, and its worker goes on
        assert len({timeline.workers[a.worker] for a in fatal}) == 3
    others = Counter(a.key for a in timeline.attempts if a.outcome == DONE)
    assert set(others.values()) == {1}
    assert len(others) == 6


def test_what_a_killed_run_has_recorded_can_be_read(crowd: Path, out: Path) -> None:
    running = start("run", "median_blur 9 | gaussian_blur 20", crowd, out, "--engine", "serial")
    try:
        path = path_of(default_path(), 1)
        wait_until(lambda: running.poll() is not None or (path.exists() and path.stat().st_size >= 3000))
        assert running.poll() is None
    finally:
        kill(running)
        running.wait(60)
    timeline = the_timeline()
    assert timeline.closing is None
    assert 0 < len(timeline.attempts) < 240
    made = contents(out)
    assert {a.key for a in timeline.attempts} <= made.keys()
    assert imageloom("report", "last", "--json").returncode == 0


def test_a_torn_end_loses_the_last_frame_only(photos: Path, out: Path, tmp_path: Path) -> None:
    ran = Run("grayscale", photos, out)
    data = path_of(default_path(), ran.summary.job).read_bytes()
    whole = the_timeline(ran.summary.job)
    first = 4 + int.from_bytes(data[:4], "big")
    torn = tmp_path / "torn.timeline"
    for length in (first, first + 3, (first + len(data)) // 2, len(data) - 1):
        torn.write_bytes(data[:length])
        timeline = read(torn)
        assert timeline.opening == whole.opening
        assert timeline.attempts == whole.attempts[: len(timeline.attempts)]
        assert timeline.closing is None


def test_records_are_written_before_they_are_many(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.db"
    recorder = Recorder(ledger, JOB, "serial", 1)
    recorder(Began(5))
    least = 10_000
    for number in range(15_000):
        item = Item(f"{number}.jpg", 100)
        task = Task(number, "5", "in", "out", JOB.recipe, Limits(), (Work(item, ("a",), number),))
        result = Result(item.key, (), None, Times(0.001), time.time(), 9)
        recorder(Started(number, 1, 9))
        recorder(Collected(task, Outcome(number, "w", (result,))))
        recorder(Done(result, 1, "w"))
    before = read(path_of(ledger, 5))
    assert least < len(before.attempts) <= 15_000
    recorder.close()
    after = read(path_of(ledger, 5))
    assert [a.key for a in after.attempts] == [f"{n}.jpg" for n in range(15_000)]
    assert path_of(ledger, 5).stat().st_size < 120 * 15_000


def test_the_machine_is_looked_at(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "ledger.db", JOB, "serial", 1)
    times = psutil.Process().cpu_times()
    before = times.user + times.system
    began = time.monotonic()
    recorder(Began(1))
    until = time.thread_time() + 2.3  # a machine that stands still for a while gives it no time
    while time.thread_time() < until:
        sum(range(1000))
    recorder.close()
    timeline = read(path_of(tmp_path / "ledger.db", 1))
    assert 1 <= len(timeline.measurements) <= (time.monotonic() - began) / PERIOD
    last = timeline.measurements[-1]
    assert len(last.cores) == psutil.cpu_count()
    assert all(0 <= percent <= 100 for percent in last.cores)
    own = psutil.Process().cpu_times()
    assert 0 < last.cpu <= own.user + own.system - before + 0.1
    assert any(look.proportional for look in timeline.measurements)


def test_memory_and_processes_are_what_psutil_says() -> None:
    child = start("plan", "grayscale", "nothing.jpg", stderr=-3)
    try:
        tree = machine.process_tree(os.getpid())
        assert set(tree) >= {os.getpid(), child.pid}
        assert set(tree) == {os.getpid()} | {p.pid for p in psutil.Process().children(recursive=True)}
    finally:
        child.wait(60)
    _, resident = machine.process_usage(os.getpid())
    assert resident == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)
    exact = psutil.Process().memory_full_info().pss
    assert machine.proportional_memory(os.getpid()) == pytest.approx(exact, rel=0.1)
    assert machine.process_usage(2**22 + 1) == (0.0, 0)


def test_only_the_newest_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, KEPT + 31):
        (tmp_path / f"{number}.timeline").write_bytes(b"x" * 100)
    (tmp_path / "notes.txt").touch()
    prune(tmp_path)
    left = {int(p.stem) for p in tmp_path.glob("*.timeline")}
    assert left == set(range(31, KEPT + 31))
    monkeypatch.setattr("imageloom.records.timeline.KEPT_BYTES", 1050)
    prune(tmp_path)
    assert {int(p.stem) for p in tmp_path.glob("*.timeline")} == set(range(KEPT + 21, KEPT + 31))
    assert (tmp_path / "notes.txt").exists()


def test_nothing_is_recorded_of_a_dry_run_or_where_it_is_not_wanted(photos: Path, out: Path) -> None:
    assert imageloom("run", "grayscale", photos, out, "--dry-run").returncode == 0
    assert imageloom("run", "grayscale", photos, out, "--no-timeline").returncode == 0
    Run("grayscale", photos, out, timeline=False)
    assert not folder_of(default_path()).exists()
    refused = imageloom("run", "grayscale", photos, out, "--no-timeline", "--report", "r.html")
    assert refused.returncode == 2
    assert "--report needs a recorded timeline" in refused.stderr


def test_a_place_that_takes_no_timeline_does_not_stop_the_run(
    photos: Path, out: Path, tmp_path: Path
) -> None:
    (tmp_path / "timelines").write_text("in the way")
    done = imageloom("run", "grayscale", photos, out, "--ledger", tmp_path / "ledger.db")
    assert done.returncode == 0
    assert "the timeline for `imageloom report` is not recorded" in done.stderr
    assert len(list(out.rglob("*.jpg"))) == 6
