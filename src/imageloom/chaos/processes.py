"""Finds all processes of a run from the outside, even if their parent has ended.

They are recognized by a mark in their environment, by their working folder, and by their parents.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import NamedTuple

from imageloom.errors import UsageError

MARK = "IMAGELOOM_CHAOS"
"""Name of the environment variable with the mark."""
SHARED = "/dev/shm/"


class Process(NamedTuple):
    pid: int
    parent: int
    words: str
    """Command line of the process."""


class MarkedProcesses:
    """All processes with a mark, and their descendants.

    Args:
        mark: unique value of the environment variable.
        folder: absolute path of a folder that only these processes work in.
    """

    def __init__(self, mark: str, folder: str) -> None:
        if not Path("/proc/self/environ").exists():
            raise UsageError("imageloom chaos needs /proc, which this system does not have")
        self._needle = f"{MARK}={mark}".encode()
        self._folder = os.path.realpath(folder)
        self.shared: set[str] = set()
        """Paths of the shared memory that they have used."""

    def members(self) -> dict[int, Process]:
        """The running processes by ID."""
        everybody = {
            int(name): one for name in os.listdir("/proc") if name.isdigit() and (one := _read(name))
        }
        found = {pid: one for pid, one in everybody.items() if self._is_marked(pid)}
        waiting = list(found)
        below: dict[int, list[Process]] = {}
        for one in everybody.values():
            below.setdefault(one.parent, []).append(one)
        while waiting:
            for child in below.get(waiting.pop(), []):
                if child.pid not in found:
                    found[child.pid] = child
                    waiting.append(child.pid)
        return found

    def workers(self, marker: str) -> list[int]:
        """IDs of the workers: their command line contains the marker. For a fork server, the parent's does too."""
        members = self.members()
        found = [one for one in members.values() if marker in one.words]
        if "forkserver" in marker:
            found = [one for one in found if one.parent in members and marker in members[one.parent].words]
        return sorted(one.pid for one in found)

    def servers(self) -> list[int]:
        return sorted(one.pid for one in self.members().values() if "valkey-server" in one.words)

    def record_shared_memory(self) -> None:
        """Record the shared memory that the processes use now."""
        for pid in self.members():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                    fields = line.split(maxsplit=5)
                    if len(fields) == 6 and fields[5].startswith(SHARED):
                        self.shared.add(fields[5].removesuffix(" (deleted)"))

    def kill_all(self) -> None:
        for pid in self.members():
            send(pid, signal.SIGKILL)

    def _is_marked(self, pid: int) -> bool:
        try:
            if self._needle in Path(f"/proc/{pid}/environ").read_bytes():
                return True
            place = os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            return False
        return place == self._folder or place.startswith(self._folder + "/")


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal. Returns False if the process does not exist."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _read(name: str) -> Process | None:
    """Read a process from /proc; None if it has ended."""
    try:
        state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
        words = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None
    return None if state in "ZX" else Process(int(name), int(parent), words)
