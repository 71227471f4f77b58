"""What the scheduler needs of a technology: a transport carries tasks to workers and events back."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from imageloom.scheduling.protocol import Drop, End, Event, Send


class Transport(Protocol):
    """Carries commands to workers, and events from them.

    All methods but `wake` are called from one thread. None of them blocks, except for `events` and `close`.
    """

    def open(self, failed: Callable[[str], None]) -> None:
        """Begin to work.

        Args:
            failed: to be called, from any thread, with the reason why the transport cannot go on.
        """

    def start(self) -> None:
        """Start one more worker and report it by `Joined`, also one that dies at once.

        Called only where `Rules.jobs` is given.
        """

    def send(self, command: Send) -> None:
        """Give a task to a worker. What cannot be delivered is reported by a later event."""

    def drop(self, command: Drop) -> None:
        """Have a worker give up what it has not begun of a delivery; `Finished` says that it has."""

    def end(self, command: End) -> None:
        """End a worker by force, or what works on a delivery. No event of it may follow."""

    def events(self, patience: float | None) -> Iterable[Event]:
        """What has happened; waits for it for so many seconds, or until `wake` is called.

        Args:
            patience: seconds; None for no bound.
        """

    def wake(self) -> None:
        """Have `events` return soon. From any thread; it does nothing after `close`."""

    def close(self, patience: float) -> None:
        """Let the workers leave; after so many seconds end them. Leave nothing behind."""


class Waker:
    """A pipe by which other threads wake one that waits for file descriptors."""

    def __init__(self) -> None:
        self.file, self._end = os.pipe()
        os.set_blocking(self.file, False)
        os.set_blocking(self._end, False)
        self._lock = threading.Lock()
        self._is_closed = False

    def wake(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):  # a full pipe wakes as well
            if not self._is_closed:  # else its number may be another file's by now
                os.write(self._end, b".")

    def clear(self) -> None:
        """Forget all calls of `wake` so far."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self.file, 4096)) == 4096:
                pass

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            os.close(self.file)
            os.close(self._end)
