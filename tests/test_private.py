"""What was done to whose files is this user's alone: the ledger, timelines, a server's jobs, keys."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageloom.records.ledger import Ledger
from program import imageloom, start


@pytest.fixture(autouse=True)
def _no_umask() -> Iterator[None]:
    """A umask that takes nothing away."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state" / "imageloom"


def shared(folder: Path) -> list[str]:
    """What others can reach and read or write, in the folder and below it."""
    if not mode(folder) & 0o077:
        return []
    return [str(p) for p in (folder, *folder.rglob("*")) if mode(p) & 0o077]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_a_run_writes_down_is_its_users_alone(photos: Path, out: Path, state: Path) -> None:
    assert imageloom("run", "grayscale", photos, out).returncode == 0
    assert (state / "timelines" / "ledger" / "1.timeline").exists()
    assert shared(state) == []
    assert mode(state / "ledger.db") == mode(state / "timelines" / "ledger" / "1.timeline") == 0o600


def test_a_ledger_elsewhere_is_its_users_alone(photos: Path, out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir(mode=0o755)
    assert imageloom("run", "grayscale", photos, out, "--ledger", folder / "l.db").returncode == 0
    assert mode(folder) == 0o755, "it is a folder of the user's, who may have other things there"
    assert mode(folder / "l.db") == 0o600
    assert mode(folder / "timelines" / "l") == mode(folder / "in-hand") == 0o700
    assert (
        imageloom(
            "run", "grayscale", photos, tmp_path / "out2", "--ledger", tmp_path / "new/deep/l.db"
        ).returncode
        == 0
    )
    assert mode(tmp_path / "new" / "deep") == 0o700


def test_what_an_earlier_version_left_open_is_closed(photos: Path, out: Path, state: Path) -> None:
    assert imageloom("run", "grayscale", photos, out).returncode == 0
    with Ledger(state / "ledger.db") as book:
        book.begin("a", "b", "c", "serial", 1)
        for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
            (state / name).chmod(0o644)
        state.chmod(0o755)
        assert imageloom("jobs").returncode == 0
        assert shared(state) == []
        assert {mode(state / f"ledger.db{end}") for end in ("", "-wal", "-shm")} == {0o600}
        book.begin("a", "d", "c", "serial", 1)
    assert imageloom("jobs").stdout.count("->") == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("which", ["state", "ledger"])
def test_what_another_user_could_change_is_refused(photos: Path, out: Path, state: Path, which: str) -> None:
    assert imageloom("run", "grayscale", photos, out).returncode == 0
    os.chown(state if which == "state" else state / "ledger.db", 4321, -1)
    for command in (["run", "grayscale", photos, out], ["jobs"], ["doctor"], ["report", "last"]):
        refused = imageloom(*command)
        assert refused.returncode == 4
        assert "belongs to another user (UID 4321)" in refused.stderr


def test_a_server_keeps_jobs_to_itself(photos: Path, out: Path, tmp_path: Path) -> None:
    state = tmp_path / "jobs"
    state.mkdir(mode=0o755)
    arguments = ("server", "--listen", "127.0.0.1:0", "--root", tmp_path, "--state", state)
    server = start(*arguments, stderr=subprocess.PIPE)
    try:
        assert server.stderr is not None
        address = server.stderr.readline().split()[1]
        assert imageloom("submit", "grayscale", photos, out, "--server", address, "--detach").returncode == 0
        (kept,) = state.iterdir()
        assert (mode(state), mode(kept)) == (0o700, 0o600)
    finally:
        server.send_signal(signal.SIGKILL)
        server.communicate()


def test_keys_are_their_makers_alone(tmp_path: Path) -> None:
    assert imageloom("keys", tmp_path / "keys").returncode == 0
    assert shared(tmp_path / "keys") == []
    assert {mode(path) for path in (tmp_path / "keys").iterdir()} == {0o600}
