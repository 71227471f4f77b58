"""The consumer group of the streams of the engine `redis`: which consumer has which entry."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imageloom.engines.redis.wire import (
    GROUP,
    RUN_EXPIRY,
    STREAM_EXPIRY,
    STREAMS,
    Role,
    results_key,
    run_key,
)

if TYPE_CHECKING:
    from redis import Redis

MOST_PENDING = 20_000
"""Entries that consumers have, of all runs."""

EntryId = tuple[Role, bytes]


@dataclass
class Snapshot:
    """The state of one stream's group."""

    last: tuple[int, int] = (0, 0)
    """The latest entry that a consumer was given."""
    pending: dict[bytes, tuple[str, float]] | None = None
    """By entry: its consumer, and the seconds since its lease was renewed."""

    def holder(self, entry: bytes) -> tuple[str, float] | None:
        return (self.pending or {}).get(entry)


Snapshots = dict[Role, Snapshot]


def order(entry: bytes) -> tuple[int, int]:
    """An entry's id in a form that can be compared."""
    milliseconds, _, number = entry.partition(b"-")
    return int(milliseconds), int(number)


def snapshots(client: Redis) -> Snapshots:
    return {role: _snapshot(client, stream) for role, stream in STREAMS.items()}


def _snapshot(client: Redis, stream: str) -> Snapshot:
    """The state of a group; an empty one where the group is gone."""
    with client.pipeline(transaction=True) as pipe:
        pipe.xinfo_groups(stream)
        pipe.xpending_range(stream, GROUP, "-", "+", MOST_PENDING)
        groups, pending = pipe.execute(raise_on_error=False)
    for reply in (groups, pending):
        if isinstance(reply, Exception):
            if str(reply).startswith(("NOPERM", "NOAUTH", "LOADING")):
                raise reply
            return Snapshot()
    held = {
        one["message_id"]: (_name(one["consumer"]), one["time_since_delivered"] / 1000)
        for one in pending
        if isinstance(one["consumer"], bytes)  # else it was too large, and was skipped
    }
    last = next(g["last-delivered-id"] for g in groups if g["name"] == GROUP.encode())
    return Snapshot(order(last), held)


def lags(client: Redis) -> dict[str, int]:
    """Entries of each stream that no worker has taken. A stream that cannot be read is left out."""
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


def remove(client: Redis, places: Iterable[EntryId]) -> None:
    """Remove entries from their streams: no worker begins them or renews their leases any more."""
    with client.pipeline(transaction=False) as pipe:
        for role, entry in places:
            pipe.xack(STREAMS[role], GROUP, entry)
            pipe.xdel(STREAMS[role], entry)
        pipe.execute()


def consumers(client: Redis) -> list[tuple[str, str, float]]:
    """All consumers: their stream, their name, and the seconds since their last request."""
    return [
        (stream, _name(one["name"]), one["idle"] / 1000)
        for stream in STREAMS.values()
        for one in client.xinfo_consumers(stream, GROUP)
        if isinstance(one.get("name"), bytes)
    ]


def remove_consumers(client: Redis, prefixes: Iterable[str]) -> None:
    """Remove the consumers whose names begin so: those of dead workers."""
    beginnings = tuple(prefixes)
    for stream, name, _ in consumers(client) if beginnings else ():
        if name.startswith(beginnings):
            client.xgroup_delconsumer(stream, GROUP, name)


def renew_keys(client: Redis, run: str, lease: float) -> None:
    """Tell the workers that a run is alive, and keep its streams."""
    alive = round(1000 * max(RUN_EXPIRY, 4 * lease))
    make_groups(client, tuple(STREAMS))
    with client.pipeline(transaction=False) as pipe:
        pipe.set(run_key(run), os.getpid(), px=alive)
        pipe.pexpire(results_key(run), alive)
        for stream in STREAMS.values():
            pipe.pexpire(stream, round(1000 * STREAM_EXPIRY))
        pipe.execute()


def make_groups(client: Redis, roles: tuple[Role, ...]) -> None:
    """Create the streams and their groups where they are missing."""
    from redis.exceptions import ResponseError

    for role in roles:
        try:
            client.xgroup_create(STREAMS[role], GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise


def remove_idle_streams(client: Redis) -> None:
    """Remove the streams that have neither entries nor consumers."""
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
    """The process id in a consumer's name, where the name begins with that host; else 0."""
    found = re.match(r"(\d{1,9})/", consumer.removeprefix(host), re.ASCII)
    return int(found[1]) if found and consumer.startswith(host) else 0


def cause(consumer: str, dead: dict[str, str] | None) -> str | None:
    """Why a consumer died; None where it is not known to be dead."""
    return next((cause for prefix, cause in (dead or {}).items() if consumer.startswith(prefix)), None)
