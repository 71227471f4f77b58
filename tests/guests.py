"""Workers that connect: the program, as other machines run it."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import psutil

from imageloom.engines.zeromq.wire import make_keys
from program import start, wait_until


@cache
def keys() -> tuple[str, str]:
    """The files of keys of a driver and its workers, for as long as the tests run."""
    folder = tempfile.mkdtemp(prefix="imageloom-keys-")
    atexit.register(shutil.rmtree, folder)
    server, client = make_keys(folder, ["client"])
    return server, client


@contextlib.contextmanager
def remote(address: str, root: Path, *flags: object) -> Iterator[subprocess.Popen[str]]:
    """An `imageloom worker` whose process is there, ended at the end; with the keys above by default."""
    own = () if "--keys" in flags else ("--keys", keys()[1])
    command = ["worker", "--engine", "zeromq", "--connect", address, "--root", root, "-j", 1, *own, *flags]
    count = 3 if "off" in flags else 4
    running = start(*command, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: len(family(running)) >= count or running.poll() is not None)
        yield running
    finally:
        running.kill()
        running.communicate(timeout=60)


def family(worker: subprocess.Popen[str]) -> list[int]:
    """Its processes: the resource tracker, the fork server, the worker, and what forks its decoding processes."""
    try:
        return [child.pid for child in psutil.Process(worker.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
