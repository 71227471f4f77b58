"""Scratch is a folder of the run's own: two runs never mix, and what a killed one leaves is found and removed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageloom.errors import StorageError
from imageloom.stores import Store, open_store
from places import Memory
from program import Run, contents, draw, imageloom, names, start

BLUR = "gaussian_blur 3 | equalize | gaussian_blur 3"
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def command(photos: Path, sink: Path | str, scratch: Path, ledger: Path) -> list[object]:
    tiles = ["--tile", "always", "--engine", "processes", "-j", "2"]
    return ["run", BLUR, photos, sink, "--scratch", scratch, "--ledger", ledger, *tiles]


@pytest.fixture
def stopped(tmp_path: Path, scratch: Path) -> Iterator[subprocess.Popen[str]]:
    """A run with that scratch, stopped while it has pixels in there; it goes on when it is told to."""
    draw(tmp_path / "one" / "photo.png", 1, 3000, 2000)
    arguments = command(tmp_path / "one", tmp_path / "out 1", scratch, tmp_path / "1.db")
    running = start(*arguments, start_new_session=True, **QUIET)
    try:
        until = time.monotonic() + 40
        while running.poll() is None and not any(p.is_file() for p in scratch.rglob("*")):
            assert time.monotonic() < until
            time.sleep(0.002)
        os.killpg(running.pid, signal.SIGSTOP)
        assert running.poll() is None, "it was over before it was stopped"
        yield running
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait(30)


def expected(photos: Path, tmp_path: Path) -> dict[str, bytes]:
    assert (
        Run(BLUR, photos, tmp_path / "plain", engine="serial", ledger=tmp_path / "plain.db").numbers[1] == 0
    )
    return contents(tmp_path / "plain")


def test_two_runs_with_one_scratch_do_not_mix(
    stopped: subprocess.Popen[str], tmp_path: Path, scratch: Path
) -> None:
    """Each of the ledgers counts from 1, and the images have one name and one size."""
    (first,) = scratch.iterdir()
    assert stat.S_IMODE(first.stat().st_mode) == 0o700
    there = names(first)
    draw(tmp_path / "two" / "photo.png", 2, 3000, 2000)
    second = imageloom(*command(tmp_path / "two", tmp_path / "out 2", scratch, tmp_path / "2.db"))
    assert second.returncode == 0, second.stderr
    assert names(first) == there
    os.killpg(stopped.pid, signal.SIGCONT)
    assert stopped.wait(60) == 0
    assert contents(tmp_path / "out 2") == expected(tmp_path / "two", tmp_path)
    assert contents(tmp_path / "out 1") == expected(tmp_path / "one", tmp_path / "two")
    assert names(scratch) == []


def doctor(*arguments: object) -> subprocess.CompletedProcess[str]:
    return imageloom("doctor", "--json", *arguments)


def test_doctor_leaves_alone_what_a_run_uses_and_finds_what_a_killed_one_left(
    stopped: subprocess.Popen[str], tmp_path: Path, scratch: Path
) -> None:
    """The scratch of a run is known by what was recorded of it, or by its folder."""
    before = names(scratch)
    for folders in ([], [scratch]):
        assert '"scratch"' not in doctor("--ledger", tmp_path / "1.db", "--remove", *folders).stdout
    assert names(scratch) == before
    os.killpg(stopped.pid, signal.SIGKILL)
    stopped.wait(30)
    assert names(scratch) == before
    for arguments in (["--ledger", tmp_path / "1.db"], ["--ledger", tmp_path / "none.db", scratch]):
        found = doctor(*arguments)
        assert (found.returncode, f'"kind":"scratch","name":"{scratch}/' in found.stdout) == (1, True)
    assert doctor("--ledger", tmp_path / "1.db", "--remove").returncode == 0
    assert names(scratch) == []


def test_the_next_run_sweeps_up_and_leaves_what_is_not_ours(
    stopped: subprocess.Popen[str], tmp_path: Path, scratch: Path
) -> None:
    os.killpg(stopped.pid, signal.SIGKILL)
    stopped.wait(30)
    (left,) = scratch.iterdir()
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "1-1-1-0123456789ab").write_bytes(b"precious")
    (scratch / f"{left.name}x").symlink_to(victim)
    (scratch / "photo.png").write_bytes(b"theirs")
    (left / "notes.txt").write_bytes(b"theirs")
    theirs = {f"{left.name}x", "photo.png", left.name, f"{left.name}/notes.txt"}
    second = imageloom(*command(tmp_path / "one", tmp_path / "out 2", scratch, tmp_path / "2.db"))
    assert second.returncode == 0, second.stderr
    assert set(names(scratch)) == theirs
    assert contents(victim) == {"1-1-1-0123456789ab": b"precious"}


def test_two_runs_into_one_remote_sink_have_folders_of_their_own(scratch: Path, tmp_path: Path) -> None:
    """Nothing locks a bucket for another ledger's runs."""
    stores: list[Store] = []
    for _ in range(2):
        open_store.cache_clear()
        store = open_store(Memory("shared").address)
        store.prepare(str(scratch))
        Path(store.staging("1-1-1-0123456789ab-0")).write_bytes(b"%d" % len(stores))
        stores.append(store)
    assert len(names(scratch)) == 4
    for number, store in enumerate(stores):
        assert Path(store.staging("1-1-1-0123456789ab-0")).read_bytes() == b"%d" % number
        store.tidy()
    assert names(scratch) == []


@pytest.mark.parametrize("sink", ["out", "memory://refused/out"])
def test_a_scratch_folder_that_takes_nothing_is_refused_before_the_run(
    sink: str, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in ("/proc", tmp_path / "file", tmp_path / "none"):
        target = sink if "://" in sink else tmp_path / sink
        with pytest.raises(StorageError, match=rf"cannot write to {folder}: .* \(--scratch\)"):
            Run(BLUR, photos, target, scratch=folder)
    assert not (tmp_path / "out").exists()
