"""SIGTERM and Ctrl-C are heard whichever thread the kernel gives them to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from program import line_of, start, wait_until, working
from redis_servers import GivenServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads are found in /proc")

COMMANDS = ("worker", "node", "server", "watch")


@pytest.fixture(params=COMMANDS)
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that waits for work: it has said so, and all its threads are there."""
    (tmp_path / "photos").mkdir()
    server = GivenServer(tmp_path / "server") if request.param == "worker" else None
    arguments: dict[str, list[object]] = {
        "worker": ["--engine", "redis", *(server.place if server else ()), "-j", 1, "--health", 0],
        "node": ["--root", tmp_path, "--listen", "127.0.0.1:0", "--limit", 1],
        "server": ["--root", tmp_path, "--listen", "127.0.0.1:0", "--state", tmp_path / "jobs"],
        "watch": ["invert", tmp_path / "photos", tmp_path / "out", "-v"],
    }
    running = start(
        request.param, *arguments[request.param], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        if request.param == "watch":
            wait_until((tmp_path / "out").exists)
        else:
            line_of(running, "health", "node", "server")
        yield running
    finally:
        running.kill()
        running.communicate()
        if server:
            server.close()


def threads(program: subprocess.Popen[str]) -> list[int]:
    """Of the process that works, from the oldest to the newest; the first is the main thread."""
    return sorted(map(int, os.listdir(f"/proc/{working(program).pid}/task")))


@pytest.mark.parametrize("thread", [1, -1], ids=["oldest", "newest"])
def test_a_signal_given_to_another_thread_is_heard(program: subprocess.Popen[str], thread: int) -> None:
    os.kill(threads(program)[thread], signal.SIGTERM)
    assert program.wait(60) == 0


def test_a_second_signal_ends_the_program(program: subprocess.Popen[str]) -> None:
    # The first one is not acted upon yet when the second one comes: the program is stopped.
    working(program).suspend()
    os.kill(threads(program)[-1], signal.SIGTERM)
    os.kill(threads(program)[-1], signal.SIGINT)
    working(program).resume()
    assert program.wait(60) in (0, 130)
