"""Transports: a transport sends tasks to workers, and returns their events. Each engine has one."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from imageloom.scheduling.protocol import Drop, End, Event, Send


class Transport(Protocol):
    """Sends commands to workers, and returns events from them.

    All methods except `wake` are called from one thread. Only `events` and `close` may block.
    """

    def open(self, failed: Callable[[str], None]) -> None:
        """Start the transport.

        Args:
            failed: the transport calls it, from any thread, with the reason if it cannot continue.
        """

    def start(self) -> None:
        """Start one more worker and report it by `Joined`, even if it dies at once.

        Called only if `Rules.jobs` is above 0.
        """

    def send(self, command: Send) -> None:
        """Send a task to a worker. A failure to send is reported by a later event."""

    def drop(self, command: Drop) -> None:
        """Ask a worker to drop the items of a delivery that it has not begun. `Finished` confirms it."""

    def end(self, command: End) -> None:
        """End a worker or a delivery by force. No event of it may follow."""

    def events(self, patience: float | None) -> Iterable[Event]:
        """The new events. Waits for one until the time-out, or until `wake` is called.

        Args:
            patience: time-out in seconds; None for none.
        """

    def wake(self) -> None:
        """Make `events` return soon. It may be called from any thread, and does nothing after `close`."""

    def close(self, patience: float) -> None:
        """Ask the workers to exit, and end them after `patience` seconds. Nothing may be left: no process, no
        file."""


class Waker:
    """A pipe that wakes a thread which waits for file descriptors."""

    def __init__(self) -> None:
        self.file, self._end = os.pipe()
        os.set_blocking(self.file, False)
        os.set_blocking(self._end, False)
        self._lock = threading.Lock()
        self._is_closed = False

    def wake(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):  # a full pipe wakes the thread, too
            if not self._is_closed:  # its descriptor may belong to another file by now
                os.write(self._end, b".")

    def clear(self) -> None:
        """Reset: discard all earlier calls of `wake`."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self.file, 4096)) == 4096:
                pass

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            os.close(self.file)
            os.close(self._end)
