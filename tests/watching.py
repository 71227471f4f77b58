"""`imageloom watch` as people run it: a process, what it says, and what it makes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imageloom.api import process
from program import contents, kill, start

PIPELINE = "resize 64x48 | grayscale"
THREE = (
    *("--output", "gray=grayscale", "--output", "blur=gaussian_blur 2"),
    *("--output", "edges=grayscale | canny 60 150"),
)
PATIENCE = 30.0
"""Seconds until something must have come to pass."""
_numbers = itertools.count()


class Watching:
    """A running watcher; ended with the block, if it has not ended before."""

    def __init__(self, *arguments: object) -> None:
        self._arguments = arguments

    def __enter__(self) -> Watching:
        folder = Path(os.environ["XDG_STATE_HOME"])
        folder.mkdir(parents=True, exist_ok=True)
        number = next(_numbers)
        self._said, self._told = folder / f"said-{number}", folder / f"told-{number}"
        with open(self._said, "wb") as said, open(self._told, "wb") as told:
            self.running = start("watch", *self._arguments, "--json", "-v", stdout=said, stderr=told)
        return self

    def __exit__(self, *_: object) -> None:
        kill(self.running)

    @property
    def told(self) -> str:
        return self._told.read_text()

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = [line for line in self._said.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def items(self, kind: str) -> list[str]:
        return [event["item"] for event in self.events(kind)]

    def wait(self, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert self.running.poll() is None, self.told
            assert time.monotonic() < until, f"{self.told}\n{self._said.read_text()}"
            time.sleep(0.02)

    def wait_for(self, *keys: str, times: int = 1, kind: str = "done") -> None:
        self.wait(lambda: all(self.items(kind).count(key) >= times for key in keys))

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to end; its exit code."""
        self.running.send_signal(number)
        return self.code()

    def code(self) -> int:
        """The exit code that it ends with by itself."""
        try:
            code = self.running.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end: {self.told}") from None
        assert "Traceback" not in self.told, self.told
        return code


def made_of(source: Path, scratch: Path, pipeline: str = PIPELINE) -> dict[str, bytes]:
    """What an undisturbed run makes of a folder."""
    target = scratch / f"expected-{next(_numbers)}"
    process(pipeline, source, target, ledger=scratch / "expected.db", engine="serial", timeline=False)
    return contents(target)


def made_of_one(data: bytes, name: str, scratch: Path, pipeline: str = PIPELINE) -> bytes:
    """What an undisturbed run makes of one file."""
    folder = scratch / f"one-{next(_numbers)}"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(data)
    (made,) = made_of(folder, scratch, pipeline).values()
    return made


SLOW = '''
import time
from pathlib import Path
from imageloom.model import Pixels
from imageloom.operators import operator

@operator("point", examples=("slow",))
def slow(image: Pixels) -> Pixels:
    """Take half a second."""
    Path({begun!r}).touch()
    time.sleep(0.5)
    return image
'''


def slow_operator(folder: Path) -> Path:
    """The path of a file with the operator `slow`. Beside it, `slow.begun` appears when it is used first."""
    path = folder / "slow.py"
    path.write_text(SLOW.format(begun=str(path.with_suffix(".begun"))))
    return path
