"""Lists a remote source in a thread of its own, so that the driver can do other work, and can be stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Queue
from typing import TypeVar

T = TypeVar("T")

MOST_AHEAD = 2000
"""Maximum number of entries that are listed before they are asked for."""


def listed_apart(entries: Iterable[T], wake: Callable[[], None]) -> Iterator[T | None]:
    """Yield the entries as they are listed in another thread. None means: no entry at the moment.

    Args:
        wake: called from the other thread when entries have arrived after a None, and at the end.

    Raises:
        BaseException: the error that ended the listing.
    """
    found: Queue[tuple[T] | BaseException | None] = Queue(MOST_AHEAD)
    """Entries; at its end an error, or None."""
    closed = threading.Event()

    def list_all() -> None:
        end = None
        try:
            for entry in entries:
                found.put((entry,))
                if closed.is_set():
                    return
                if found.qsize() == 1:
                    wake()
        except BaseException as error:
            end = error
        found.put(end)
        wake()

    threading.Thread(target=list_all, name="listing", daemon=True).start()
    try:
        while True:
            try:
                entry = found.get_nowait()
            except Empty:
                yield None
                continue
            if entry is None:
                return
            if isinstance(entry, BaseException):
                raise entry
            yield entry[0]
    finally:
        closed.set()
        while not found.empty():  # the thread may wait for room
            found.get_nowait()
