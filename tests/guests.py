"""Workers that connect: the program, as other machines run it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

from program import start, wait_until


@contextlib.contextmanager
def remote(address: str, root: Path, *flags: object) -> Iterator[subprocess.Popen[str]]:
    """An `imageloom worker` whose process is there, ended at the end."""
    command = ["worker", "--engine", "zeromq", "--connect", address, "--root", root, "-j", 1, *flags]
    running = start(*command, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: len(family(running)) == 3 or running.poll() is not None)
        yield running
    finally:
        running.kill()
        running.communicate(timeout=60)


def family(worker: subprocess.Popen[str]) -> list[int]:
    """Its processes: the resource tracker, the fork server, and the process that works."""
    try:
        return [child.pid for child in psutil.Process(worker.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
