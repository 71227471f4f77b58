"""The processes of a run, seen from the outside: whoever started them, and whether or not that one still lives.

They are known by a mark in their environment, by the folder that they work in, and by their parents.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import NamedTuple

from imageloom.errors import UsageError

MARK = "IMAGELOOM_CHAOS"
"""The variable of the environment."""
SHARED = "/dev/shm/"


class Process(NamedTuple):
    pid: int
    parent: int
    words: str
    """Its command line."""


class MarkedProcesses:
    """All processes with a mark, and those below them.

    Args:
        mark: the value of the variable, unlike any other's.
        folder: absolute path of the folder that they and no others work in.
    """

    def __init__(self, mark: str, folder: str) -> None:
        if not Path("/proc/self/environ").exists():
            raise UsageError("imageloom chaos needs /proc, which this system does not have")
        self._needle = f"{MARK}={mark}".encode()
        self._folder = os.path.realpath(folder)
        self.shared: set[str] = set()
        """Paths of the shared memory that they have been seen with."""

    def members(self) -> dict[int, Process]:
        """Those that live now, by their numbers."""
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
        """Those that do tasks: their command line has the marker, and where it is a server's that forks, its
        parent's too."""
        members = self.members()
        found = [one for one in members.values() if marker in one.words]
        if "forkserver" in marker:
            found = [one for one in found if one.parent in members and marker in members[one.parent].words]
        return sorted(one.pid for one in found)

    def servers(self) -> list[int]:
        return sorted(one.pid for one in self.members().values() if "valkey-server" in one.words)

    def record_shared_memory(self) -> None:
        """Take note of the shared memory that they have."""
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
    """Send a signal; False where there is nobody any more."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _read(name: str) -> Process | None:
    """A living process."""
    try:
        state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
        words = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None
    return None if state in "ZX" else Process(int(name), int(parent), words)
