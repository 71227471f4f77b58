"""Dead letters: the items that failed for good, in a stream that outlives the runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from imageloom.engines.redis.wire import DEAD, FIELD, DeadLetter
from imageloom.scheduling.inbox import UNREADABLE

if TYPE_CHECKING:
    from redis import Redis

MOST = 10_000
"""Dead letters that are kept, approximately; the oldest are deleted first."""
_AT_ONCE = 500


def write(client: Redis, letter: DeadLetter) -> None:
    client.xadd(DEAD, {FIELD: msgspec.msgpack.encode(letter)}, maxlen=MOST, approximate=True)


def read(client: Redis) -> Iterator[tuple[bytes, DeadLetter]]:
    """All dead letters with the ids of their entries, the oldest first. Other entries are skipped."""
    after = "-"
    while found := _entries(client, after):
        for entry, fields in found:
            try:
                yield entry, msgspec.msgpack.decode(fields.get(FIELD.encode(), b""), type=DeadLetter)
            except UNREADABLE:
                continue
        after = f"({found[-1][0].decode()}"


def _entries(client: Redis, after: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    found: Any = client.xrange(DEAD, after, "+", count=_AT_ONCE)
    return list(found)


def remove(client: Redis, entries: Iterable[bytes]) -> None:
    for entry in entries:
        client.xdel(DEAD, entry)
    if not client.xlen(DEAD):
        client.delete(DEAD)
