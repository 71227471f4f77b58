"""The shared memory that a test's programs have left, on a machine that others use too."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil


def shared_memory() -> set[str]:
    """What lies in /dev/shm, but for what other programs have in hand; orphans of a test are none of these."""
    process = psutil.Process()
    ours = {process.pid, *(child.pid for child in process.children(recursive=True))}
    mapped: set[str] = set()
    for one in psutil.process_iter(["ppid", "environ"]):
        if one.pid in ours or (
            one.info["ppid"] == 1 and "PYTEST_CURRENT_TEST" in (one.info["environ"] or ())
        ):
            continue
        with suppress(OSError):  # it has ended, or is another user's
            lines = Path(f"/proc/{one.pid}/maps").read_text().splitlines()
            mapped |= {line.split()[4] for line in lines if "/dev/shm/" in line}
    found = set()
    with suppress(OSError):
        found = {place.name for place in os.scandir("/dev/shm") if str(place.inode()) not in mapped}
    return found
