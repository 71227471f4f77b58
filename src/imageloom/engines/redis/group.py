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
"""Maximum number of entries that are read, of all runs."""

EntryId = tuple[Role, bytes]


@dataclass
class Snapshot:
    """The state of one stream's group."""

    last: tuple[int, int] = (0, 0)
    """Id of the latest entry that was delivered to a consumer."""
    pending: dict[bytes, tuple[str, float]] | None = None
    """For each entry: its consumer, and the seconds since its lease was renewed."""

    def holder(self, entry: bytes) -> tuple[str, float] | None:
        return (self.pending or {}).get(entry)


Snapshots = dict[Role, Snapshot]


def order(entry: bytes) -> tuple[int, int]:
    """An entry's id as a tuple that can be compared."""
    milliseconds, _, number = entry.partition(b"-")
    return int(milliseconds), int(number)


def snapshots(client: Redis) -> Snapshots:
    return {role: _snapshot(client, stream) for role, stream in STREAMS.items()}


def _snapshot(client: Redis, stream: str) -> Snapshot:
    """The state of a group. It is empty if the group does not exist."""
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
        if isinstance(one["consumer"], bytes)  # otherwise it was too large and was skipped
    }
    last = next(g["last-delivered-id"] for g in groups if g["name"] == GROUP.encode())
    return Snapshot(order(last), held)


def lags(client: Redis) -> dict[str, int]:
    """Number of entries of each stream that no worker has taken. A stream that cannot be read is omitted."""
    from redis.exceptions import RedisError

    found: dict[str, int] = {}
    for stream in STREAMS.values():
        with contextlib.suppress(RedisError):
            for one in client.xinfo_groups(stream):
                if one["name"] == GROUP.encode():
                    lag = one["lag"]  # None if entries were deleted
                    last = one["last-delivered-id"].decode()
                    found[stream] = len(client.xrange(stream, f"({last}") or ()) if lag is None else lag
    return found


def exists(client: Redis, place: EntryId) -> bool:
    role, entry = place
    return bool(client.xrange(STREAMS[role], entry, entry, count=1))


def remove(client: Redis, places: Iterable[EntryId]) -> None:
    """Remove entries from their streams, so that no worker begins them or renews their leases."""
    with client.pipeline(transaction=False) as pipe:
        for role, entry in places:
            pipe.xack(STREAMS[role], GROUP, entry)
            pipe.xdel(STREAMS[role], entry)
        pipe.execute()


def consumers(client: Redis) -> list[tuple[str, str, float]]:
    """All consumers: stream, name, and seconds since the last request."""
    return [
        (stream, _name(one["name"]), one["idle"] / 1000)
        for stream in STREAMS.values()
        for one in client.xinfo_consumers(stream, GROUP)
        if isinstance(one.get("name"), bytes)
    ]


def remove_consumers(client: Redis, prefixes: Iterable[str]) -> None:
    """Remove the consumers of dead workers: those whose names have one of these prefixes."""
    beginnings = tuple(prefixes)
    for stream, name, _ in consumers(client) if beginnings else ():
        if name.startswith(beginnings):
            client.xgroup_delconsumer(stream, GROUP, name)


def renew_keys(client: Redis, run: str, lease: float) -> None:
    """Renew the keys that mark a run as alive, and that keep its streams."""
    alive = round(1000 * max(RUN_EXPIRY, 4 * lease))
    make_groups(client, tuple(STREAMS))
    with client.pipeline(transaction=False) as pipe:
        pipe.set(run_key(run), os.getpid(), px=alive)
        pipe.pexpire(results_key(run), alive)
        for stream in STREAMS.values():
            pipe.pexpire(stream, round(1000 * STREAM_EXPIRY))
        pipe.execute()


def make_groups(client: Redis, roles: tuple[Role, ...]) -> None:
    """Create missing streams and groups."""
    from redis.exceptions import ResponseError

    for role in roles:
        try:
            client.xgroup_create(STREAMS[role], GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise


def remove_idle_streams(client: Redis) -> None:
    """Remove the streams without entries and without consumers."""
    from redis.exceptions import ResponseError

    for stream in STREAMS.values():
        try:
            if not client.xlen(stream) and not client.xinfo_consumers(stream, GROUP):
                client.delete(stream)
        except ResponseError:  # the stream or its group does not exist
            continue


def _name(name: bytes) -> str:
    return name.decode(errors="replace")


def pid_of(consumer: str, host: str) -> int:
    """The process id in a consumer's name if the name begins with this host; otherwise 0."""
    found = re.match(r"(\d{1,9})/", consumer.removeprefix(host), re.ASCII)
    return int(found[1]) if found and consumer.startswith(host) else 0


def cause(consumer: str, dead: dict[str, str] | None) -> str | None:
    """Why a consumer died; None if it is not known to be dead."""
    return next((cause for prefix, cause in (dead or {}).items() if consumer.startswith(prefix)), None)
