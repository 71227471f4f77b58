"""What programs that run long say while they wait."""

from __future__ import annotations

from pathlib import Path

import pytest

from imageloom.system.announcing import FIRST_REPEAT, LONGEST_REPEAT, Announcer
from program import draw, free_port, imageloom, line_of, start, wait_until


def test_a_state_is_said_once_then_ever_more_seldom() -> None:
    now, said = [0.0], list[tuple[float, str]]()
    one = Announcer("worker 7", lambda: now[0], lambda form, *values: said.append((now[0], form % values)))
    one.repeat()
    assert said == []
    while now[0] < 12 * 3600:
        one.say("waiting")
        now[0] += 1
    times = [moment for moment, _ in said]
    assert times[:4] == [0, FIRST_REPEAT, 3 * FIRST_REPEAT, 7 * FIRST_REPEAT]
    assert times[-1] - times[-2] == LONGEST_REPEAT
    assert len(said) < 20
    one.say("working")
    one.say("waiting")
    assert [text for _, text in said[-2:]] == ["worker 7: working", "worker 7: waiting"]


@pytest.mark.parametrize("command", ["worker", "node", "server"])
def test_a_root_that_does_not_exist_is_named(command: str, tmp_path: Path) -> None:
    more = {"worker": ["--engine", "redis", "--connect", "redis://127.0.0.1:1"]}.get(command, [])
    ran = imageloom(command, *more, "--root", tmp_path, "--root", tmp_path / "none")
    assert (ran.returncode, f"--root {tmp_path}/none: there is no such folder" in ran.stderr) == (2, True)


def test_a_worker_says_that_nothing_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker of redis, which knows it at once."""
    address = f"redis://127.0.0.1:{free_port()}/0"
    place = ("--connect", address, "--root", tmp_path, "--jobs", "1")
    running = start("worker", "--engine", "redis", *place, stderr=-1)
    try:
        assert f"worker: 1 process for redis at {address}, for files below {tmp_path}" in line_of(
            running, "worker:"
        )
        assert running.stderr
        said = next(line for line in running.stderr if "cannot use the Redis server" in line)
        assert "Connection refused" in said
        assert said.rstrip().endswith("trying again")
    finally:
        running.terminate()
        running.communicate(timeout=60)


def test_a_watch_says_what_it_watches(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.jpg", 1, 40, 30)
    running = start(
        "watch", "flip", tmp_path / "in", tmp_path / "out", "--engine", "serial", stdout=-1, stderr=-1
    )
    try:
        assert f"watching {tmp_path}/in; Ctrl-C ends" in line_of(running, "watching")
        wait_until((tmp_path / "out" / "a.jpg").exists)
    finally:
        running.terminate()
        running.communicate(timeout=60)
