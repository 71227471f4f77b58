"""Workers that connect: the program, as other machines run it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from program import start


def free_port() -> int:
    """A port of the loopback that is free together with the next one."""
    while True:
        with socket.socket() as one, socket.socket() as two, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            two.bind(("127.0.0.1", port + 1))
            return port


@contextlib.contextmanager
def remote(address: str, root: Path, *flags: object) -> Iterator[subprocess.Popen[str]]:
    """An `imageloom worker`, ended at the end."""
    command = ["worker", "--engine", "zeromq", "--connect", address, "--root", root, "-j", 1, *flags]
    running = start(*command, stderr=subprocess.PIPE)
    try:
        yield running
    finally:
        running.kill()
        running.communicate(timeout=20)
