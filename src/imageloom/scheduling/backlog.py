"""Tasks that wait until an engine has room: what failed before comes after the others, and runs alone."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from imageloom.model import Outcome, Task

LONGEST_WAIT = 30.0
"""Seconds that a task which failed before lets others go first."""


@dataclass(eq=False)
class Entry:
    """A task, and who waits for it."""

    task: Task
    future: Future[Outcome] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)
    """When it came here, and then when it was taken, by the monotonic clock."""

    @property
    def is_suspect(self) -> bool:
        """An attempt at it has failed before: it may take its worker along, and all that is there with it."""
        return any(work.attempt > 1 for work in self.task.work)


class Backlog:
    """Who takes entries gives them back when they are answered, one way or the other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fresh: deque[Entry] = deque()
        self._suspects: deque[Entry] = deque()
        self._taken: set[Entry] = set()

    def add(self, entry: Entry) -> None:
        with self._lock:
            (self._suspects if entry.is_suspect else self._fresh).append(entry)

    def take(self, most: int) -> list[Entry]:
        """The next entries, at most so many; none where one that is taken is to be alone, or is to come next."""
        found: list[Entry] = []
        with self._lock:
            while len(found) < most and (entry := self._next()):
                if entry.future.running() or entry.future.set_running_or_notify_cancel():
                    entry.since = time.monotonic()
                    self._taken.add(entry)
                    found.append(entry)
        return found

    def _next(self) -> Entry | None:
        if any(entry.is_suspect for entry in self._taken):
            return None
        if self._suspects:
            waited = time.monotonic() - self._suspects[0].since
            if not self._fresh or waited > LONGEST_WAIT:
                return None if self._taken else self._suspects.popleft()
        return self._fresh.popleft() if self._fresh else None

    def answered(self, entries: Iterable[Entry]) -> None:
        """They are in nobody's hand any more."""
        with self._lock:
            self._taken.difference_update(entries)

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Nobody has begun them: they are the next ones."""
        back = list(entries)
        with self._lock:
            self._taken.difference_update(back)
            self._suspects.extendleft(entry for entry in reversed(back) if entry.is_suspect)
            self._fresh.extendleft(entry for entry in reversed(back) if not entry.is_suspect)

    def clear(self) -> list[Entry]:
        """All that wait, which wait here no longer."""
        with self._lock:
            waiting = [*self._fresh, *self._suspects]
            self._fresh.clear()
            self._suspects.clear()
        return waiting
