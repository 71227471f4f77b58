"""Dask: workers that are killed, items that crash them, and clusters of others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import distributed
import numpy as np
import psutil
import pytest

from imageloom.api import process
from imageloom.bench.samples import draw_photos
from imageloom.engines.dask import ABSENCE, Absence
from imageloom.errors import EngineFailed, UsageError
from imageloom.records.events import Done, Event, Failed, Retried
from imageloom.records.ledger import Ledger
from imageloom.testing.engines import recipe_of
from program import contents, imageloom, start, wait_for_outputs


def workers(of: int | None = None) -> list[psutil.Process]:
    """The processes that do the work for a process's local cluster."""
    spawned = psutil.Process(of).children(recursive=True)
    return [child for child in spawned if "spawn_main" in " ".join(child.cmdline())]


@pytest.fixture(autouse=True)
def _no_worker_is_left() -> Iterator[None]:
    yield
    assert not workers()


def test_workers_are_absent_from_when_they_are_first_missed() -> None:
    absence = Absence()
    absence.note(2, 0.0)
    absence.note(0, 1000.0)  # nobody had looked for long: a worker may have died just now
    absence.note(0, 1000.0 + ABSENCE)
    absence.note(1, 1001.0 + ABSENCE)
    absence.note(0, 2000.0)
    with pytest.raises(EngineFailed, match="no Dask worker"):
        absence.note(0, 2001.0 + ABSENCE)


def test_a_killed_worker_costs_only_what_it_had_in_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageloom.recipes.plan.BATCH_ITEMS", 3)
    photos, out, expected = tmp_path / "photos", tmp_path / "out", tmp_path / "expected"
    draw_photos(photos, 30)
    text = "resize 400x400 | median_blur 31"
    process(text, photos, expected, engine="serial", ledger=tmp_path / "ledger.db")
    events: list[Event] = []
    killed: list[int] = []

    def kill(event: Event) -> None:
        if isinstance(event, Done) and not killed:
            # The first item of three: this worker has the others in hand.
            worker = int((event.result.worker or event.worker).partition("/")[0])
            os.kill(worker, signal.SIGKILL)
            killed.append(worker)

    summary = process(
        text,
        photos,
        out,
        engine="dask",
        jobs=2,
        ledger=tmp_path / "ledger.db",
        listeners=[events.append, kill],
    )
    assert killed
    assert (summary.done, summary.failed, summary.skipped) == (30, 0, 0)
    assert contents(out) == contents(expected)
    lost = [event for event in events if isinstance(event, Retried)]
    assert {e.result.failure.kind for e in lost if e.result.failure} <= {"WorkerLost"}
    with Ledger(tmp_path / "ledger.db") as ledger:
        attempts = [item.attempts for item in ledger.items(summary.job)]
    # None if its message that the next item has begun was lost with it; at most what the cluster was given ahead.
    assert len(lost) <= 4 * 3
    assert sorted(attempts) == [1] * (30 - len(lost)) + [2] * len(lost)


def test_an_item_that_crashes_its_worker_is_given_up_and_no_other_is(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    draw_photos(photos, 12)
    assert cv2.imwrite(str(photos / "red.png"), np.full((40, 60, 3), (0, 0, 255), np.uint8))
    events: list[Event] = []
    summary = process(
        recipe_of("crash_on_red | resize 32x32", "png"),
        photos,
        tmp_path / "out",
        engine="dask",
        jobs=2,
        ledger=tmp_path / "ledger.db",
        listeners=[events.append],
    )
    assert (summary.done, summary.failed) == (12, 1)
    (failed,) = [e for e in events if isinstance(e, Failed)]
    assert failed.result.failure is not None
    assert (failed.result.key, failed.attempt) == ("red.png", 3)
    assert failed.result.failure.kind == "WorkerLost"


def test_an_existing_cluster_is_used_and_left_running(photos: Path, out: Path) -> None:
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        address = cluster.scheduler_address
        assert (
            imageloom("run", "invert", photos, out, "--engine", "dask", "--connect", address).returncode == 0
        )
        with Ledger() as ledger:
            (job,) = ledger.jobs()
            assert {item.worker.partition("/")[0] for item in ledger.items(job.id)} == {
                str(worker.pid) for worker in workers()
            }
        assert (job.engine, job.workers) == ("dask", 2)
        assert client.submit(sum, [1, 2]).result(30) == 3
    assert len(contents(out)) == 6


def test_a_cluster_that_does_not_answer_is_named(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageloom.engines.dask.PATIENCE", 0.5)
    with pytest.raises(UsageError, match=r"--connect tcp://127.0.0.1:9: cannot connect to the cluster"):
        process("invert", photos, out, engine="dask", connect="tcp://127.0.0.1:9")


@pytest.mark.parametrize(("engine", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_without_the_library_the_message_says_what_to_install(
    engine: str, module: str, photos: Path, out: Path
) -> None:
    code = (
        f"import sys; sys.modules['{module}'] = None; from imageloom.cli import main; "
        f"sys.argv = ['imageloom', 'run', 'invert', {str(photos)!r}, {str(out)!r}, '--engine', '{engine}']; main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 2
    assert f"pip install 'imageloom[{engine}]'" in ran.stderr
    assert not out.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_finishes_what_is_in_hand_and_a_kill_ends_the_workers(
    number: signal.Signals, crowd: Path, out: Path
) -> None:
    """Ctrl-C as a terminal sends it: to the whole group of processes."""
    arguments = ["run", "median_blur 9", crowd, out, "--engine", "dask", "-j", "2"]
    running = start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    wait_for_outputs(out, running)
    there = workers(running.pid)
    assert len(there) == 2
    if number == signal.SIGKILL:
        running.kill()
    else:
        os.killpg(running.pid, number)
    stdout, stderr = running.communicate(timeout=60)
    _, alive = psutil.wait_procs(there, timeout=60)
    assert not alive
    if number == signal.SIGINT:
        assert running.returncode == 130
        assert "stopping: finishing the items in progress" in stderr
        assert not {"distributed", "Traceback"} & set(stderr.replace(".", " ").split())
        assert " 0 failed" in stdout
        assert 0 < len(contents(out)) < 240
        assert not (out / ".imageloom").exists()
