"""The load of this machine, to be shown: processors, memory and disks."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from imageloom.model import Plain
from imageloom.stores import is_remote
from imageloom.system import machine

SHORTEST = 1.0
"""Minimum seconds between two measurements of the processors."""


class Disk(Plain, frozen=True):
    """The file system of one or more roots."""

    root: str
    free: int
    total: int
    """Bytes."""


class Load(Plain, frozen=True):
    """The load of the machine."""

    busy: float | None
    """Share of the processors' time since the measurement before, from 0 to 1; None if it is not known."""
    cores: int
    memory_free: int
    memory_total: int
    """Bytes."""
    disks: tuple[Disk, ...]


class LoadMeter:
    """Measures the machine when somebody looks.

    Args:
        roots: their local folders are on the disks that are shown.
    """

    def __init__(self, roots: Sequence[str]) -> None:
        self._roots = [root for root in roots if not is_remote(root)]
        self._lock = threading.Lock()
        self._at, self._ticks = time.monotonic(), machine.core_times()
        self._busy: float | None = None

    def load(self) -> Load:
        """The load now."""
        total = 2 * machine.half_of_memory()
        free = min(total, machine.available_memory())
        return Load(self._measure(), machine.available_cores(), free, total, self._disks())

    def _measure(self) -> float | None:
        with self._lock:
            if time.monotonic() - self._at < SHORTEST:
                return self._busy
            before, self._ticks, self._at = self._ticks, machine.core_times(), time.monotonic()
            busy = sum(now[0] for now in self._ticks) - sum(one[0] for one in before)
            ticks = sum(now[1] for now in self._ticks) - sum(one[1] for one in before)
            self._busy = min(1.0, max(0.0, busy / ticks)) if ticks > 0 else None
            return self._busy

    def _disks(self) -> tuple[Disk, ...]:
        found: dict[int, Disk] = {}
        for root in self._roots:
            with suppress(OSError):
                usage = shutil.disk_usage(root)
                found.setdefault(os.stat(root).st_dev, Disk(root, usage.free, usage.total))
        return tuple(found.values())
