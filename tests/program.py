"""The program as people run it, and what it leaves on disk."""

from __future__ import annotations

import contextlib
import inspect
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from imageloom.api import process
from imageloom.bench.samples import draw_photo
from imageloom.cli.supervisor import is_supervised
from imageloom.codecs import get
from imageloom.model import Encoding
from imageloom.records.events import Done, Event, Failed, Skipped
from imageloom.records.summary import Summary

COMMAND = [sys.executable, "-c", "from imageloom.cli import main; main()"]


def imageloom(
    *arguments: object, cwd: Path | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    return subprocess.run(
        [*COMMAND, *(os.fspath(a) if isinstance(a, os.PathLike) else str(a) for a in arguments)],
        cwd=cwd,
        check=False,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=60,
        **options,
    )


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start the program and go on."""
    return subprocess.Popen([*COMMAND, *(str(a) for a in arguments)], text=True, **options)


def working(program: subprocess.Popen[str]) -> psutil.Process:
    """The process that works: on threads, a run or a watch is a child, which is started again after a crash."""
    process = psutil.Process(program.pid)
    arguments = list(map(str, program.args))[len(COMMAND) :]  # type: ignore[arg-type]
    children = process.children() if is_supervised(arguments) else []
    return children[0] if children else process


def kill(program: subprocess.Popen[str]) -> None:
    """Kill a program, and wait for its end and for that of the process that works."""
    with contextlib.suppress(psutil.NoSuchProcess):  # it has ended
        worker = working(program)
        program.kill()
        program.wait()
        worker.wait(60)
    program.wait()


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until a condition holds, and fail when it does not in time: an idle machine needs a fraction of it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, (
            f"not within {seconds:g} s: {inspect.getsource(condition).strip()}"
        )
        time.sleep(0.005)


def wait_for_outputs(out: Path, running: subprocess.Popen[str], pattern: str = "*/*.jpg") -> None:
    """Until the first ones of a folder are published, or the program has ended."""
    wait_until(lambda: any(out.glob(pattern)) or running.poll() is not None)


def line_of(running: subprocess.Popen[str], *starts: str) -> str:
    """The first line of a program's stderr that begins so."""
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith(starts):
            return line
    raise AssertionError(f"it ended and did not say {' or '.join(starts)}")


def draw(path: Path, seed: int = 0, width: int = 120, height: int = 90) -> Path:
    """A small drawn photo in a file, JPEG or PNG by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = get("png" if path.suffix == ".png" else "jpeg")
    path.write_bytes(codec.encode(draw_photo(seed, width, height), Encoding(90)))
    return path


def free_port() -> int:
    """A port of the loopback that is free together with the next one.

    It is none of those that outgoing connections get, nor of those of another worker beside this one: one of
    these may be taken before it is used.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 6
    first = 20_000 + 2000 * worker
    for port in random.SystemRandom().sample(range(first, first + 1999), 1000):
        with socket.socket() as one, socket.socket() as two, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 1))
            return port
    raise AssertionError("no port is free")


class Run:
    """One run, its events sorted out."""

    def __init__(
        self,
        pipeline: str,
        source: Path | str,
        sink: Path | str,
        listeners: Any = (),
        **options: Any,
    ) -> None:
        self.events: list[Event] = []
        every = [self.events.append, *listeners]
        self.summary: Summary = process(pipeline, source, sink, listeners=every, **options)

    @property
    def numbers(self) -> tuple[int, int, int]:
        return self.summary.done, self.summary.failed, self.summary.skipped

    @property
    def done(self) -> list[str]:
        return sorted(event.result.key for event in self.events if isinstance(event, Done))

    @property
    def skipped(self) -> dict[str, str]:
        return {event.item.key: event.reason for event in self.events if isinstance(event, Skipped)}

    @property
    def failed(self) -> dict[str, str]:
        """The kind of each failure, by key."""
        return {
            event.result.key: event.result.failure.kind
            for event in self.events
            if isinstance(event, Failed) and event.result.failure
        }

    def reason(self, key: str) -> str:
        (reason,) = [
            event.result.failure.message
            for event in self.events
            if isinstance(event, Failed) and event.result.failure and event.result.key == key
        ]
        return reason


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if not p.is_dir()}


def names(folder: Path) -> list[str]:
    """All that lies below a folder: files, folders, hidden ones too."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))
