"""Dead letters: the items that were given up, in a stream that outlives the runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from imageloom.engines.redis.wire import DEAD, FIELD, Letter
from imageloom.scheduling.inbox import UNREADABLE

if TYPE_CHECKING:
    from redis import Redis

MOST = 10_000
"""Letters that are kept, about; the oldest go first."""
_AT_ONCE = 500


def write(client: Redis, letter: Letter) -> None:
    client.xadd(DEAD, {FIELD: msgspec.msgpack.encode(letter)}, maxlen=MOST, approximate=True)


def read(client: Redis) -> Iterator[tuple[bytes, Letter]]:
    """All letters with their entries' ids, the oldest first; what is no letter is passed over."""
    after = "-"
    while found := _entries(client, after):
        for entry, fields in found:
            try:
                yield entry, msgspec.msgpack.decode(fields.get(FIELD.encode(), b""), type=Letter)
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
