"""Dead letters: the items that have finally failed. They are in a stream that is kept after the run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from imageloom.engines.redis.wire import DEAD, FIELD, DeadLetter
from imageloom.model import UNREADABLE
from imageloom.records.events import Began, Event, Failed

if TYPE_CHECKING:
    from redis import Redis

MOST = 10_000
"""Approximate maximum number of dead letters. The oldest ones are deleted first."""
_AT_ONCE = 200


class DeadLetters:
    """The dead letters of one run."""

    def __init__(self) -> None:
        self._unwritten: deque[DeadLetter] = deque()
        self._places = ("", "")

    def add(self, event: Event) -> None:
        """Add an item that has finally failed, in a worker or in its planning. Other events are ignored."""
        if isinstance(event, Began):
            self._places = event.source, event.sink
        elif isinstance(event, Failed) and event.result.failure:
            key, failure = event.result.key, event.result.failure
            self._unwritten.append(
                DeadLetter(key, *self._places, failure.kind, failure.message, event.attempt, time.time())
            )

    def write(self, client: Redis) -> None:
        """Write the new dead letters to the stream."""
        while self._unwritten:
            data = msgspec.msgpack.encode(self._unwritten[0])
            client.xadd(DEAD, {FIELD: data}, maxlen=MOST, approximate=True)
            self._unwritten.popleft()


def read(client: Redis) -> Iterator[tuple[bytes, DeadLetter]]:
    """Yield all dead letters with the ids of their entries, the oldest first. Invalid entries are skipped."""
    after = "-"
    while found := _entries(client, after):
        for entry, fields in found:
            try:
                yield entry, msgspec.msgpack.decode(fields.get(FIELD.encode(), b""), type=DeadLetter)
            except (TypeError, *UNREADABLE):  # TypeError: it was too large and was skipped
                continue
        after = f"({found[-1][0].decode()}"


def _entries(client: Redis, after: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    found: Any = client.xrange(DEAD, after, "+", count=_AT_ONCE)
    return [(entry, fields or {}) for entry, fields in found if isinstance(entry, bytes)]


def remove(client: Redis, entries: Iterable[bytes]) -> None:
    for entry in entries:
        client.xdel(DEAD, entry)
    if not client.xlen(DEAD):
        client.delete(DEAD)
