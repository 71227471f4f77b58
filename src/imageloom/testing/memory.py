"""Finds shared memory that the programs of a test have left, on a machine with other users."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil


def shared_memory() -> set[str]:
    """The files in /dev/shm that no running program has open. Orphans of a test are among them."""
    process = psutil.Process()
    ours = {process.pid, *(child.pid for child in process.children(recursive=True))}
    mapped: set[str] = set()
    for one in psutil.process_iter(["ppid", "environ"]):
        if one.pid in ours or (
            one.info["ppid"] == 1 and "PYTEST_CURRENT_TEST" in (one.info["environ"] or ())
        ):
            continue
        with suppress(OSError):  # the process has ended, or belongs to another user
            lines = Path(f"/proc/{one.pid}/maps").read_text().splitlines()
            mapped |= {line.split()[4] for line in lines if "/dev/shm/" in line}
    found = set()
    with suppress(OSError):
        found = {place.name for place in os.scandir("/dev/shm") if str(place.inode()) not in mapped}
    return found
