"""MPI: ranks that are killed, that crash, that hang; and this program under mpiexec."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from imageloom.api import process
from imageloom.bench.samples import draw_photos
from imageloom.engines import Settings, open_engine
from imageloom.engines.mpi import engine as mpi
from imageloom.engines.mpi.job import MpiJob, find_mpiexec
from imageloom.errors import EngineFailed, MissingExtra
from imageloom.model import Failure
from imageloom.records.events import Done, Event, Failed, Retried
from imageloom.records.ledger import Ledger
from imageloom.scheduling import scheduler
from imageloom.testing.engines import HARMFUL, recipe_of
from program import COMMAND, contents, imageloom, names, start, wait_for_outputs

SLOW = "resize 400x400 | median_blur 31"


def ranks(of: int | None = None) -> list[psutil.Process]:
    """The ranks of the MPI jobs that a process has started, the first one first."""
    found = []
    for child in psutil.Process(of).children(recursive=True):
        try:
            if "imageloom.engines.mpi.relay" in child.cmdline() and "mpiexec" not in child.name():
                found.append((int(child.environ().get("PMI_RANK", -1)), child))
        except psutil.NoSuchProcess:
            continue
    return [child for number, child in sorted(found, key=lambda pair: pair[0]) if number >= 0]


def shared_memory(of: psutil.Process) -> set[str]:
    """Paths of MPICH's shared memory that a process has."""
    maps = Path(f"/proc/{of.pid}/maps").read_text().splitlines()
    return {line.split()[-1] for line in maps if "/dev/shm/mpich" in line}


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process of a test's jobs, and none of their shared memory."""
    jobs: list[MpiJob] = []
    begin = MpiJob.__init__

    def record(job: MpiJob, *arguments: Any) -> None:
        begin(job, *arguments)
        jobs.append(job)

    monkeypatch.setattr(MpiJob, "__init__", record)
    yield
    assert not ranks()
    assert not [path for job in jobs for path in job.shared if os.path.exists(path)]


@pytest.fixture
def reds(tmp_path: Path) -> Path:
    """14 photos, two of them red."""
    folder = tmp_path / "photos"
    draw_photos(folder, 12)
    for number in range(2):
        assert cv2.imwrite(str(folder / f"red-{number}.png"), np.full((40, 60, 3), (0, 0, 255), np.uint8))
    return folder


@pytest.mark.parametrize(("victim", "most"), [(0, 0), (2, 1)], ids=["the first rank", "another rank"])
def test_a_killed_rank_costs_only_the_item_that_it_was_processing(
    victim: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In tasks of three; the first rank processes nothing, and another one may be between two tasks."""
    monkeypatch.setattr("imageloom.recipes.plan.BATCH_ITEMS", 3)
    photos, out, expected = tmp_path / "photos", tmp_path / "out", tmp_path / "expected"
    draw_photos(photos, 40)
    process(SLOW, photos, expected, engine="serial", ledger=tmp_path / "ledger.db")
    events: list[Event] = []
    killed: list[int] = []

    def kill(event: Event) -> None:
        if isinstance(event, Done) and not killed:
            rank = ranks()[victim]
            rank.kill()
            killed.append(rank.pid)

    summary = process(
        SLOW,
        photos,
        out,
        engine="mpi",
        jobs=2,
        ledger=tmp_path / "ledger.db",
        listeners=[events.append, kill],
    )
    assert killed
    assert (summary.done, summary.failed, summary.skipped) == (40, 0, 0)
    assert contents(out) == contents(expected)
    with Ledger(tmp_path / "ledger.db") as ledger:
        attempts = Counter(item.attempts for item in ledger.items(summary.job))
    charged = attempts[2]
    assert charged <= most
    assert attempts == Counter({1: 40 - charged, 2: charged}), "the rest was done once"
    lost = [event.result.worker for event in events if isinstance(event, Retried)]
    assert lost == [f"job-1/rank-{victim}"] * charged


def attempts_of(reds: Path, text: str, **options: Any) -> tuple[list[Event], dict[str, int]]:
    """Run a pipeline that harms its rank on red photos: the events, and the attempts that each item took."""
    events: list[Event] = []
    ledger_path = reds.parent / "ledger.db"
    summary = process(
        recipe_of(f"{text} | resize 32x32", "png"),
        reds,
        reds.parent / "out",
        engine="mpi",
        jobs=2,
        ledger=ledger_path,
        listeners=[events.append],
        **options,
    )
    with Ledger(ledger_path) as ledger:
        return events, {item.key: item.attempts for item in ledger.items(summary.job)}


def failures(events: list[Event]) -> dict[str, Failure]:
    return {e.result.key: e.result.failure for e in events if isinstance(e, Failed) and e.result.failure}


def test_items_that_crash_their_rank_are_given_up_and_no_other_is_charged(reds: Path) -> None:
    events, attempts = attempts_of(reds, "crash_on_red")
    assert {key: count for key, count in attempts.items() if count != 1} == {"red-0.png": 3, "red-1.png": 3}
    assert len(attempts) == 14
    assert {key: failure.kind for key, failure in failures(events).items()} == {
        "red-0.png": "WorkerLost",
        "red-1.png": "WorkerLost",
    }


def test_an_item_that_hangs_is_ended_and_no_other_is_charged(reds: Path) -> None:
    (reds / "red-1.png").unlink()
    events, attempts = attempts_of(reds, "hang_on_red", timeout=1.0, tile="never")
    assert {key: count for key, count in attempts.items() if count != 1} == {"red-0.png": 3}
    assert len(attempts) == 13
    (failure,) = failures(events).values()
    assert failure.kind == "ItemTimeout"
    assert "--timeout" in failure.message


def test_a_rank_of_several_threads_is_charged_for_what_they_process(reds: Path) -> None:
    events, attempts = attempts_of(reds, "crash_on_red", threads=2)
    assert set(failures(events)) == {"red-0.png", "red-1.png"}
    assert attempts["red-0.png"] == attempts["red-1.png"] == 3
    beside = [count for key, count in attempts.items() if not key.startswith("red") and count > 1]
    assert beside in ([], [2], [2, 2]), "the other thread's item"


def test_where_no_rank_tells_who_died_nobody_is_charged_but_what_runs_alone(
    reds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is where ranks are on other machines: the job just ends."""
    (reds / "red-1.png").unlink()
    monkeypatch.setattr("imageloom.engines.mpi.job.gethostname", lambda: "another")
    events, attempts = attempts_of(reds, "crash_on_red")
    assert {key: count for key, count in attempts.items() if count != 1} == {"red-0.png": 3}
    assert set(failures(events)) == {"red-0.png"}


def test_jobs_that_do_not_start_are_not_started_for_ever(
    reds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "mpiexec"
    broken.write_text("#!/bin/sh\necho start >> $0.log; echo the fabric is torn >&2; exit 7\n")
    broken.chmod(0o755)
    monkeypatch.setattr(mpi, "find_mpiexec", lambda: str(broken))
    with pytest.raises(EngineFailed, match=r"4 MPI jobs in a row .* the fabric is torn"):
        process("invert", reds, tmp_path / "out", engine="mpi", jobs=2, ledger=tmp_path / "ledger.db")
    assert len(Path(f"{broken}.log").read_text().split()) == 4


def test_a_job_that_never_connects_is_ended(
    reds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = tmp_path / "mpiexec"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    monkeypatch.setattr(mpi, "find_mpiexec", lambda: str(silent))
    monkeypatch.setattr(scheduler, "START_PATIENCE", 0.1)
    with pytest.raises(EngineFailed, match="it wrote no output"):
        process("invert", reds, tmp_path / "out", engine="mpi", jobs=2, ledger=tmp_path / "ledger.db")
    assert not [child for child in psutil.Process().children() if child.name() == "sleep"]


def test_without_mpi_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    line = r"pip install 'imageloom\[mpi\]'"
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "mpi4py", None)
        with pytest.raises(MissingExtra, match=line):
            open_engine("mpi", Settings())
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingExtra, match=line):
        open_engine("mpi", Settings())


def test_the_drivers_death_ends_the_ranks(crowd: Path, out: Path) -> None:
    running = start("run", "median_blur 9", crowd, out, "--engine", "mpi", "-j", "2")
    wait_for_outputs(out, running)
    there = ranks(running.pid)
    assert len(there) == 3
    running.kill()
    running.wait()
    _, alive = psutil.wait_procs(there, timeout=60)
    assert not alive


def test_ctrl_c_finishes_what_is_in_hand(crowd: Path, out: Path) -> None:
    """As a terminal sends it: to the whole group of processes."""
    arguments = ["run", "median_blur 9", crowd, out, "--engine", "mpi", "-j", "2"]
    running = start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    wait_for_outputs(out, running)
    os.killpg(running.pid, signal.SIGINT)
    stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 130
    assert stderr.startswith("stopping: finishing the items in progress")
    assert " 0 failed" in stdout
    assert 0 < len(contents(out)) < 240
    assert not (out / ".imageloom").exists()


# Under mpiexec


def mpiexec(*arguments: object, ranks: int = 3) -> list[str]:
    return [find_mpiexec(), "-n", str(ranks), *COMMAND, *(str(a) for a in arguments)]


def run_ranks(*arguments: object, ranks: int = 3) -> subprocess.CompletedProcess[str]:
    command = mpiexec(*arguments, ranks=ranks)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_under_mpiexec_the_first_rank_drives_and_speaks(photos: Path, tmp_path: Path) -> None:
    arguments = ["run", "resize 40x30", photos]
    assert imageloom(*arguments, tmp_path / "serial", "--engine", "serial").returncode == 0
    ran = run_ranks(*arguments, tmp_path / "out", "--engine", "mpi", "-v")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("6 of 6 done") == 1
    assert contents(tmp_path / "out") == contents(tmp_path / "serial")
    again = run_ranks(*arguments, tmp_path / "out", "--engine", "mpi", "--threads", "2")
    assert (again.returncode, again.stdout.count("all 6 are up to date")) == (0, 1)
    with Ledger() as ledger:
        assert [(job.engine, job.workers) for job in ledger.jobs()] == [("mpi", 4), ("mpi", 2), ("serial", 1)]


@pytest.mark.parametrize(
    ("change", "ranks", "code", "message"),
    [
        ({"pipeline": "resizex 1"}, 3, 2, "there is no operator 'resizex'"),
        ({"source": "nowhere"}, 3, 4, "there is no file or folder nowhere"),
        ({}, 1, 2, "mpiexec -n 2 or more"),
    ],
)
def test_under_mpiexec_an_error_is_said_once(
    change: dict[str, str], ranks: int, code: int, message: str, photos: Path, out: Path
) -> None:
    arguments = {"pipeline": "invert", "source": str(photos), **change}
    ran = run_ranks("run", *arguments.values(), out, "--engine", "mpi", ranks=ranks)
    assert ran.returncode == code
    assert ran.stderr.count(message) == 1
    assert "Traceback" not in ran.stderr


def test_under_mpiexec_a_failed_item_is_exit_code_1(photos: Path, out: Path) -> None:
    (photos / "empty.jpg").touch()
    ran = run_ranks("run", "invert", photos, out, "--engine", "mpi")
    assert (ran.returncode, ran.stderr.count("failed: empty.jpg")) == (1, 1)


def test_under_mpiexec_an_item_that_hangs_is_ended_and_its_rank_goes_on(reds: Path, out: Path) -> None:
    (reds / "red-1.png").unlink()
    flags = ("--engine", "mpi", "--operators", HARMFUL, "--timeout", "1", "--tile", "never", "--json")
    ran = run_ranks("run", "hang_on_red", reds, out, *flags)
    assert ran.returncode == 1, ran.stderr
    said = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [one["item"] for one in said if one["event"] == "failed"] == ["red-0.png"]
    assert len(contents(out)) == 12
    with Ledger() as ledger:
        attempts = {item.key: item.attempts for item in ledger.items(next(ledger.jobs()).id)}
    assert {key: count for key, count in attempts.items() if count != 1} == {"red-0.png": 3}


STUCK = """
import ctypes
from imageloom import Pixels, operator

@operator("point", examples=("hold",))
def hold(image: Pixels) -> Pixels:
    \"\"\"Let no other thread of the process run, for ever.\"\"\"
    while True:
        ctypes.PyDLL(None).sleep(60)
"""


@pytest.mark.long
def test_under_mpiexec_ranks_that_are_stuck_end_the_run(reds: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    flags = ("--engine", "mpi", "--operators", tmp_path / "stuck.py", "--timeout", "1")
    ran = run_ranks("run", "hold", reds, out, *flags)
    assert "no rank of the MPI job answers" in ran.stderr
    assert ran.returncode


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_under_mpiexec_an_interruption_finishes_what_is_in_hand(
    number: signal.Signals, crowd: Path, out: Path
) -> None:
    command = mpiexec("run", "median_blur 9", crowd, out, "--engine", "mpi")
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_outputs(out, running)
    running.send_signal(number)
    stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 130, stderr
    assert stderr.count("stopping: finishing the items in progress") == 1
    assert "interrupted:" in stdout
    assert not (out / ".imageloom").exists()


def test_under_mpiexec_a_killed_rank_ends_the_run_and_the_same_command_goes_on(
    crowd: Path, out: Path
) -> None:
    command = mpiexec("run", "median_blur 5", crowd, out, "--engine", "mpi")
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_outputs(out, running)
    workers = [
        child
        for child in psutil.Process(running.pid).children(recursive=True)
        if child.environ().get("PMI_RANK") == "2"
    ]
    shared = shared_memory(workers[0])
    workers[0].kill()
    running.communicate(timeout=60)
    assert running.returncode == 9
    for path in shared:  # nobody is left who could do so
        Path(path).unlink(missing_ok=True)
    assert 0 < len([name for name in contents(out) if not name.startswith(".imageloom")]) < 240
    ran = run_ranks("run", "median_blur 5", crowd, out, "--engine", "mpi")
    assert ran.returncode == 0, ran.stderr
    assert names(out) == names(crowd)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_ranks_killed_again_and_again(tmp_path: Path) -> None:
    """With threads in each rank; a rank every second."""
    photos, out, expected = tmp_path / "photos", tmp_path / "out", tmp_path / "expected"
    draw_photos(photos, 400)
    process(SLOW, photos, expected, ledger=tmp_path / "ledger.db")
    kills = [time.monotonic()]

    def kill(event: Event) -> None:
        if isinstance(event, Done) and time.monotonic() > kills[-1] + 1 and (there := ranks()):
            there[len(kills) % len(there)].kill()
            kills.append(time.monotonic())

    summary = process(
        SLOW,
        photos,
        out,
        engine="mpi",
        jobs=2,
        threads=2,
        ledger=tmp_path / "ledger.db",
        listeners=[kill],
    )
    assert len(kills) > 3
    assert summary.done + summary.failed == 400
    made = contents(out)
    assert made == {key: data for key, data in contents(expected).items() if key in made}
    assert len(made) == summary.done
    assert summary.failed <= len(kills)
