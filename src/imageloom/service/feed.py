"""The changes in a service, as numbered messages. A reader that was away continues where it was."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from imageloom.model import Plain

MOST_KEPT = 2000
"""Number of messages that a reader may have missed."""


class Message(Plain, frozen=True):
    """A change. Its data have no secrets, and no more than a reader may see."""

    number: int
    kind: str
    data: dict[str, Any]


class Feed:
    """The latest messages. Thread-safe.

    A message's id is `SESSION-NUMBER`; the session differs each time that the service starts. A reader with an id
    of another session, or of a message that is no longer kept, gets `reset` first: it must read everything anew.
    """

    def __init__(self) -> None:
        self._session = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._messages: deque[Message] = deque(maxlen=MOST_KEPT)
        self._last = 0
        self._listeners: set[Callable[[], None]] = set()

    def add(self, kind: str, **data: Any) -> None:
        """Add a message, and tell all listeners."""
        with self._lock:
            self._last += 1
            self._messages.append(Message(self._last, kind, data))
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call a function after each message, from any thread. Returns a function that ends this."""
        with self._lock:
            self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    @property
    def last(self) -> int:
        return self._last

    def id_of(self, number: int) -> str:
        return f"{self._session}-{number}"

    def number_of(self, id: str) -> int | None:
        """The number of a message's id; None if messages after it are missing."""
        session, _, number = id.partition("-")
        if session != self._session or not number.isascii() or not number.isdecimal() or len(number) > 15:
            return None
        with self._lock:
            first = self._messages[0].number if self._messages else self._last + 1
        return int(number) if first - 1 <= int(number) <= self._last else None

    def after(self, number: int, most: int = 500) -> list[Message] | None:
        """The messages after this one; None if some of them are no longer kept."""
        with self._lock:
            if self._messages and self._messages[0].number > number + 1:
                return None
            return [message for message in self._messages if message.number > number][:most]
