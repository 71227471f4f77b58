"""Injects faults. Each kind of fault is a random process, determined by a seed."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import signal
import time
from collections import Counter
from collections.abc import Callable
from random import Random

from imageloom.chaos.model import WORKERS, Chaos
from imageloom.chaos.processes import MarkedProcesses, send
from imageloom.chaos.site import Site

DOWN = 0.3
"""Seconds after which a killed server of the site is restarted."""


class Injector:
    """Injects the faults of one chaos test when they are due.

    Args:
        kill_coordinator: kills the run; returns False if no run is active.
    """

    def __init__(
        self, chaos: Chaos, processes: MarkedProcesses, site: Site, kill_coordinator: Callable[[], bool]
    ) -> None:
        self.fired: Counter[str] = Counter()
        self._chaos, self._processes, self._site = chaos, processes, site
        self._fire: dict[str, Callable[[Random], bool]] = {
            "kill-workers": self._kill_worker,
            "stop-workers": self._stop_worker,
            "kill-server": self._kill_server,
            "kill-coordinator": lambda random: kill_coordinator(),
            "cut": site.cut,
            "fill-disk": self._fill_disk,
        }
        self._randoms = {name: Random(f"{chaos.seed} {name}") for name in chaos.rates}
        self._next = dict.fromkeys(chaos.rates, float("inf"))
        self._undo: list[tuple[float, int, Callable[[], object]]] = []
        self._turn = itertools.count()

    def begin(self) -> None:
        """Start injecting faults."""
        now = time.monotonic()
        self._next = {name: now + self._wait(name) for name in self._next}

    def work(self) -> None:
        """Inject the faults that are due, and undo those that have lasted long enough."""
        now = time.monotonic()
        while self._undo and self._undo[0][0] <= now:
            heapq.heappop(self._undo)[2]()
        for name, due in self._next.items():
            if due <= now:
                self.fired[name] += self._fire[name](self._randoms[name])
                self._next[name] = now + self._wait(name)

    def undo_all(self) -> None:
        """Undo all faults, and inject none until `begin`."""
        self._next = dict.fromkeys(self._next, float("inf"))
        while self._undo:
            heapq.heappop(self._undo)[2]()

    def _wait(self, name: str) -> float:
        return self._randoms[name].expovariate(self._chaos.rates[name])

    def _later(self, seconds: float, undo: Callable[[], object]) -> None:
        heapq.heappush(self._undo, (time.monotonic() + seconds, next(self._turn), undo))

    def _a_worker(self, random: Random) -> int | None:
        found = self._processes.workers(WORKERS[self._chaos.engine])
        return random.choice(found) if found else None

    def _kill_worker(self, random: Random) -> bool:
        pid = self._a_worker(random)
        return pid is not None and send(pid, signal.SIGKILL)

    def _stop_worker(self, random: Random) -> bool:
        pid = self._a_worker(random)
        if pid is None or not send(pid, signal.SIGSTOP):
            return False
        self._later(self._chaos.pause, lambda: pid in self._processes.members() and send(pid, signal.SIGCONT))
        return True

    def _kill_server(self, random: Random) -> bool:
        if self._site.server is not None:
            self._later(DOWN, self._site.restart_server)
            return send(self._site.server, signal.SIGKILL)
        found = self._processes.servers()
        return bool(found) and send(random.choice(found), signal.SIGKILL)

    def _fill_disk(self, random: Random) -> bool:
        disk = contextlib.ExitStack()
        disk.enter_context(self._site.full_disk())
        self._later(self._chaos.pause, disk.close)
        return True
