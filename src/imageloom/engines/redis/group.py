"""What the server is asked about the streams of the engine `redis` and their consumer group."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imageloom.engines.redis.wire import GROUP, STREAMS, Role

if TYPE_CHECKING:
    from redis import Redis

MOST_PENDING = 100_000
"""Entries in the hands of workers, of all runs."""

EntryId = tuple[Role, bytes]


@dataclass
class Snapshot:
    """What a stream's group knew at one moment."""

    last: tuple[int, int] = (0, 0)
    """The latest entry that was delivered."""
    pending: dict[bytes, tuple[str, float]] | None = None
    """Who has an entry, and the seconds since it was renewed."""

    def holder(self, entry: bytes) -> tuple[str, float] | None:
        return (self.pending or {}).get(entry)


def order(entry: bytes) -> tuple[int, int]:
    """An entry's id as what it is compared by."""
    milliseconds, _, number = entry.partition(b"-")
    return int(milliseconds), int(number)


def look(client: Redis) -> dict[Role, Snapshot]:
    return {role: _snapshot(client, stream) for role, stream in STREAMS.items()}


def _snapshot(client: Redis, stream: str) -> Snapshot:
    """What a group knows; nothing where there is none any more."""
    with client.pipeline(transaction=True) as pipe:
        pipe.xinfo_groups(stream)
        pipe.xpending_range(stream, GROUP, "-", "+", MOST_PENDING)
        groups, pending = pipe.execute(raise_on_error=False)
    for reply in (groups, pending):
        if isinstance(reply, Exception):
            if str(reply).startswith(("NOPERM", "NOAUTH", "LOADING")):
                raise reply
            return Snapshot()
    held = {p["message_id"]: (_name(p["consumer"]), p["time_since_delivered"] / 1000) for p in pending}
    last = next(g["last-delivered-id"] for g in groups if g["name"] == GROUP.encode())
    return Snapshot(order(last), held)


def lags(client: Redis) -> dict[str, int]:
    """Entries of each stream that no worker has taken, as a scaler sees them; nothing of what cannot be asked."""
    from redis.exceptions import RedisError

    found: dict[str, int] = {}
    for stream in STREAMS.values():
        with contextlib.suppress(RedisError):
            for one in client.xinfo_groups(stream):
                if one["name"] == GROUP.encode():
                    lag = one["lag"]  # the server does not know it where entries were deleted
                    last = one["last-delivered-id"].decode()
                    found[stream] = len(client.xrange(stream, f"({last}") or ()) if lag is None else lag
    return found


def exists(client: Redis, place: EntryId) -> bool:
    role, entry = place
    return bool(client.xrange(STREAMS[role], entry, entry, count=1))


def take_out(client: Redis, places: Iterable[EntryId]) -> None:
    """Have entries out of their streams: nobody is to begin or to renew them."""
    with client.pipeline(transaction=False) as pipe:
        for role, entry in places:
            pipe.xack(STREAMS[role], GROUP, entry)
            pipe.xdel(STREAMS[role], entry)
        pipe.execute()


def consumers(client: Redis) -> list[tuple[str, str, float]]:
    """All consumers: their stream, their name, and the seconds since they were heard of."""
    return [
        (stream, _name(one["name"]), one["idle"] / 1000)
        for stream in STREAMS.values()
        for one in client.xinfo_consumers(stream, GROUP)
    ]


def forget(client: Redis, prefixes: Iterable[str]) -> None:
    """Have the names of dead workers out of the groups."""
    beginnings = tuple(prefixes)
    for stream, name, _ in consumers(client) if beginnings else ():
        if name.startswith(beginnings):
            client.xgroup_delconsumer(stream, GROUP, name)


def make_groups(client: Redis, roles: tuple[Role, ...]) -> None:
    """Make the streams and their groups where there are none."""
    from redis.exceptions import ResponseError

    for role in roles:
        try:
            client.xgroup_create(STREAMS[role], GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise


def remove_idle_streams(client: Redis) -> None:
    """Remove the streams that hold nothing and that nobody reads."""
    from redis.exceptions import ResponseError

    for stream in STREAMS.values():
        try:
            if not client.xlen(stream) and not client.xinfo_consumers(stream, GROUP):
                client.delete(stream)
        except ResponseError:  # it is gone, or its group is
            continue


def _name(name: bytes) -> str:
    return name.decode(errors="replace")


def pid_of(consumer: str, host: str) -> int:
    """The process of a worker by its name, where it begins with that host; 0 for any other name."""
    found = re.match(r"(\d{1,9})/", consumer.removeprefix(host), re.ASCII)
    return int(found[1]) if found and consumer.startswith(host) else 0


def cause(consumer: str, dead: dict[str, str] | None) -> str | None:
    """What a consumer died of; None where it is not known to be dead."""
    return next((cause for prefix, cause in (dead or {}).items() if consumer.startswith(prefix)), None)
