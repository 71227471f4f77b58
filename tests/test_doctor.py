"""`imageloom doctor` finds what kills have left, removes it when asked, and leaves alone what is in use."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from imageloom.records import doctor
from imageloom.records.ledger import Ledger
from imageloom.stores.names import STAGING, new_token
from program import imageloom, kill, start, wait_for_outputs


@pytest.fixture
def killed(crowd: Path, out: Path, tmp_path: Path) -> Path:
    """The ledger of a run that was killed amid its work."""
    ledger = tmp_path / "ledger.db"
    command = ["run", "resize 500x500 | median_blur 21", crowd, out, "-j2", "--ledger", ledger]
    running = start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_outputs(out, running)
    kill(running)
    assert (out / STAGING).is_dir()
    return ledger


def found(*arguments: object) -> list[dict[str, Any]]:
    ran = imageloom("doctor", "--json", *arguments)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == any(not line["removed"] for line in lines), ran.stderr
    return lines


def test_what_a_killed_run_left_is_found_and_removed(killed: Path, out: Path) -> None:
    (out / STAGING / f"{new_token('1', 1, 1)}-input").write_bytes(b"x" * 100_000)
    there = sorted(path.name for path in out.iterdir())
    kinds = {line["kind"]: line for line in found("--ledger", killed)}
    assert set(kinds) >= {"job", "staging"}
    assert kinds["staging"]["name"] == str(out / STAGING)
    assert kinds["staging"]["size"] >= 100_000
    assert sorted(path.name for path in out.iterdir()) == there, "it was not asked to remove anything"
    assert all(line["removed"] for line in found("--ledger", killed, "--remove"))
    assert not (out / STAGING).exists()
    assert list(out.rglob("*.jpg")), "what was published stays"
    with Ledger(killed) as ledger:
        assert [job.state for job in ledger.jobs()] == ["killed"]
        assert not ledger.unfinished()
    assert not found("--ledger", killed)


def test_what_a_run_uses_is_left_alone(killed: Path, out: Path) -> None:
    """The sink's lock, and a process that is alive, say so."""
    lock = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [line["kind"] for line in found("--ledger", killed, "--remove")] == ["job"]
        assert (out / STAGING).is_dir()
    finally:
        os.close(lock)
    with Ledger(killed) as ledger:
        ledger.begin(str(out), str(out.with_name("elsewhere")), "flip", "serial", 1)
        (ours,) = ledger.unfinished()
        assert doctor.is_running(ours)
        assert not doctor.is_running(replace(ours, started=ours.started - 1e6)), "its number is another's now"
        assert [one.kind for one in doctor.find(ledger)] == ["staging"]


def test_a_sink_that_the_ledger_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "other" / STAGING).mkdir(parents=True)
    (tmp_path / "other" / STAGING / new_token("1", 1, 1)).write_bytes(b"half")
    ledger = ("--ledger", tmp_path / "ledger.db")
    assert not found(*ledger)
    (line,) = found(*ledger, tmp_path / "other", "--remove")
    assert (line["kind"], line["removed"]) == ("staging", True)
    assert not list((tmp_path / "other").iterdir())


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of /dev/shm, which other programs have segments in."""
    monkeypatch.setattr(doctor, "SHARED", tmp_path)
    return tmp_path


def test_segments_are_leftovers_when_nobody_has_them_mapped(shared: Path) -> None:
    old = time.time() - 2 * doctor.LEFTOVER_AGE
    for name in ("mpich_shm_1", "mpich_shm_used", "mpich_shm_new", "another_program"):
        (shared / name).write_bytes(b"x" * 4096)
        if name != "mpich_shm_new":
            os.utime(shared / name, (old, old))
    with Ledger(shared / "ledger.db") as ledger, (shared / "mpich_shm_used").open("r+b") as file:
        with mmap.mmap(file.fileno(), 0):
            os.utime(shared / "mpich_shm_used", (old, old))
            (one,) = doctor.find(ledger)
            assert (one.kind, one.name, one.size) == ("segment", str(shared / "mpich_shm_1"), 4096)
        assert doctor.remove(one, ledger)
        assert not (shared / "mpich_shm_1").exists()
        assert [one.name for one in doctor.find(ledger)] == [str(shared / "mpich_shm_used")]


def test_it_describes_the_machine(tmp_path: Path) -> None:
    ran = imageloom("doctor", "--ledger", tmp_path / "ledger.db")
    for word in ("imageloom ", "OpenCV ", "cores ", "memory ", "ledger "):
        assert word in ran.stdout
    assert ran.returncode == 0 or "leftovers" in ran.stdout
