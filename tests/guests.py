"""Workers that connect: the program, as other machines run it."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from imageloom.engines.zeromq_wire import make_keys
from program import start


def free_port() -> int:
    """A port of the loopback that is free together with the next one."""
    while True:
        with socket.socket() as one, socket.socket() as two, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            two.bind(("127.0.0.1", port + 1))
            return port


@cache
def keys() -> tuple[str, str]:
    """The files of keys of a driver and its workers, for as long as the tests run."""
    folder = tempfile.mkdtemp(prefix="imageloom-keys-")
    atexit.register(shutil.rmtree, folder)
    server, client = make_keys(folder, ["client"])
    return server, client


@contextlib.contextmanager
def remote(address: str, root: Path, *flags: object) -> Iterator[subprocess.Popen[str]]:
    """An `imageloom worker`, ended at the end; with the keys above, unless it has others."""
    own = () if "--keys" in flags else ("--keys", keys()[1])
    command = ["worker", "--engine", "zeromq", "--connect", address, "--root", root, "-j", 1, *own, *flags]
    running = start(*command, stderr=subprocess.PIPE)
    try:
        yield running
    finally:
        running.kill()
        running.communicate(timeout=20)
