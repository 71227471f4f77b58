"""The program as people run it, and what it leaves on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from imageloom.api import process
from imageloom.codecs import get
from imageloom.events import Done, Event, Failed, Skipped
from imageloom.samples import draw_photo
from imageloom.summary import Summary

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


def wait_for_outputs(out: Path, running: subprocess.Popen[str]) -> None:
    """Until the first ones of a folder are published, or the program has ended."""
    while not any(out.glob("*/*.jpg")) and running.poll() is None:
        time.sleep(0.002)


def draw(path: Path, seed: int = 0, width: int = 120, height: int = 90) -> Path:
    """A small drawn photo in a file, JPEG or PNG by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = get("png" if path.suffix == ".png" else "jpeg")
    path.write_bytes(codec.encode(draw_photo(seed, width, height), 90))
    return path


class Run:
    """One run, its events sorted out."""

    def __init__(self, pipeline: str, source: Path | str, sink: Path | str, **options: Any) -> None:
        self.events: list[Event] = []
        self.summary: Summary = process(pipeline, source, sink, listeners=[self.events.append], **options)

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
