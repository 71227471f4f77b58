"""A fleet keeps its number, whatever happens to its processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from queue import Queue

import psutil
import pytest

from imageloom.scheduling.fleet import Fleet
from imageloom.scheduling.scheduler import FIRST_BACKOFF
from program import wait_until


def wait_for_file(path: str) -> None:
    """A worker that leaves when it is told to."""
    while not os.path.exists(path):
        time.sleep(0.01)


def leave_at_once() -> None:
    sys.exit(7)


def test_a_dead_worker_is_named_and_replaced(tmp_path: Path) -> None:
    deaths: Queue[tuple[int, str]] = Queue()
    fleet = Fleet(wait_for_file, (str(tmp_path / "leave"),), 2, lambda *death: deaths.put(death))
    try:
        first = fleet.pids
        os.kill(first[0], signal.SIGKILL)
        assert deaths.get(timeout=60) == (first[0], "killed by SIGKILL")
        wait_until(lambda: len(fleet.pids) == 2)
        assert first[1] in fleet.pids
        alive = fleet.pids
        (tmp_path / "leave").touch()
    finally:
        fleet.close()
    assert deaths.empty(), "who leaves at the end has not died"
    assert not any(psutil.pid_exists(pid) for pid in alive)


def test_workers_that_cannot_start_are_tried_more_and_more_seldom() -> None:
    deaths: Queue[tuple[float, str]] = Queue()
    fleet = Fleet(leave_at_once, (), 1, lambda _, cause: deaths.put((time.monotonic(), cause)))
    try:
        died = [deaths.get(timeout=60) for _ in range(4)]
    finally:
        fleet.close()
    assert {cause for _, cause in died} == {"it exited with code 7"}
    (first, _), *_, (last, _) = died
    assert last - first > 6 * FIRST_BACKOFF, "each pause is twice the one before"


def test_close_ends_who_does_not_leave(tmp_path: Path) -> None:
    fleet = Fleet(wait_for_file, (str(tmp_path / "never"),), 2, lambda *_: pytest.fail("nobody died"))
    pids = fleet.pids
    fleet.close(grace=0.1)
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


def leave_on_sigterm(path: str) -> None:
    """A worker that finishes something before it leaves."""
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    Path(path, f"{os.getpid()}.begun").touch()
    asked.wait()
    Path(path, f"{os.getpid()}.finished").touch()


def leave_with_2() -> None:
    sys.exit(2)


def test_drain_lets_workers_finish(tmp_path: Path) -> None:
    fleet = Fleet(leave_on_sigterm, (str(tmp_path),), 2, lambda *_: pytest.fail("nobody died"))
    pids = fleet.pids
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    fleet.drain()
    assert {path.stem for path in tmp_path.glob("*.finished")} == set(map(str, pids))
    fleet.close()


def test_who_leaves_for_good_is_not_replaced() -> None:
    codes: Queue[int] = Queue()
    fleet = Fleet(leave_with_2, (), 2, lambda *_: pytest.fail("nobody died"), codes.put)
    try:
        assert [codes.get(timeout=60) for _ in range(2)] == [2, 2]
        assert fleet.pids == []
    finally:
        fleet.close()
    assert codes.empty()
