"""The deliveries of a run in the streams: adds and removes their entries, and finds lost ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from imageloom.engines.redis import group
from imageloom.engines.redis.wire import FIELD, RUN_EXPIRY, STREAMS, VERSION, Delivery, Role
from imageloom.model import Task
from imageloom.worker import parts

if TYPE_CHECKING:
    from redis import Redis


@dataclass(eq=False)
class Sent:
    """A delivery that is in a stream, or waits to be added to one."""

    task: Task
    role: Role
    entry: bytes = b""
    """Id of its entry in the stream; empty before it is added."""
    consumer: str = ""
    """Name of the consumer that has begun it."""
    done: int = 0
    """Number of results received."""
    is_overdue: bool = False
    """Whether its lease had expired at the last inspection."""
    is_dropped: bool = False
    """Whether other consumers process the items that its consumer has not begun."""


@dataclass(frozen=True)
class Lost:
    """A removed delivery that no worker will finish."""

    number: int
    consumer: str = ""
    """Name of the consumer that had it; empty if the server has lost the entry."""
    cause: str = ""
    """Why the consumer died; empty if it has not renewed its lease."""
    has_begun: bool = False


class Deliveries:
    """The deliveries that the scheduler has sent and that are not finished, by number.

    Args:
        run: name of the run in the deliveries.
        lease: length of a lease, in seconds.
        timeout: time-out of one item, in seconds.
    """

    def __init__(self, client: Redis, run: str, lease: float, timeout: float) -> None:
        self._client, self._run, self._lease, self._timeout = client, run, lease, timeout
        self._sent: dict[int, Sent] = {}
        self._waiting: list[int] = []
        """Deliveries to add to a stream."""
        self._over: list[group.EntryId] = []
        """Entries to remove from their streams."""

    def __bool__(self) -> bool:
        return bool(self._sent)

    def get(self, number: int) -> Sent | None:
        return self._sent.get(number)

    def add(self, task: Task) -> None:
        self._sent[task.id] = Sent(task, "assembler" if parts.is_encoding(task) else "worker")
        self._waiting.append(task.id)

    def finish(self, number: int) -> None:
        """Remove a finished delivery. Its worker removes the entry."""
        del self._sent[number]

    def remove(self, number: int) -> Sent | None:
        """Remove a delivery. `flush` removes its entry."""
        sent = self._sent.pop(number, None)
        if sent and sent.entry:
            self._over.append((sent.role, sent.entry))
        return sent

    def remove_all(self) -> None:
        for number in list(self._sent):
            self.remove(number)

    def flush(self) -> None:
        """Add entries for new deliveries, and remove entries.

        Raises:
            RedisError: the server is unavailable or refuses an entry. The next call continues.
        """
        if self._over:
            group.remove(self._client, self._over)
            self._over.clear()
        waiting = [number for number in self._waiting if number in self._sent]
        if not waiting:
            return
        with self._client.pipeline(transaction=False) as pipe:
            for number in waiting:
                sent = self._sent[number]
                delivery = Delivery(VERSION, self._run, self._lease, self._timeout, sent.task)
                pipe.xadd(STREAMS[sent.role], {FIELD: msgspec.msgpack.encode(delivery)})
            replies = pipe.execute(raise_on_error=False)
        self._waiting.clear()
        for number, reply in zip(waiting, replies, strict=True):
            if isinstance(reply, bytes):
                self._sent[number].entry = reply
            else:
                self._waiting.append(number)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply

    def known(self) -> list[int]:
        """The deliveries that are known to be in a stream."""
        return [number for number, sent in self._sent.items() if sent.entry]

    def not_taken(self, found: group.Snapshots) -> list[int]:
        """The deliveries that no consumer has."""
        return [number for number, sent in self._sent.items() if not found[sent.role].holder(sent.entry)]

    def lost(self, known: Iterable[int], found: group.Snapshots, deaths: dict[str, str]) -> Iterator[Lost]:
        """Find and remove the deliveries that were lost with a consumer, or by the server.

        Args: known: deliveries that were in the streams before `found` was read. Their results so far have been
            read. deaths: prefixes of the names of dead consumers, with the cause of each death.
        """
        for number in known:
            if sent := self._sent.get(number):
                lost = self._judge(number, sent, found[sent.role], deaths)
                if lost:
                    self.remove(number)
                    yield lost

    def _judge(self, number: int, sent: Sent, found: group.Snapshot, deaths: dict[str, str]) -> Lost | None:
        holder = found.holder(sent.entry)
        if holder is None:
            was_taken = group.order(sent.entry) <= found.last
            is_lost = was_taken or not group.exists(self._client, (sent.role, sent.entry))
            return Lost(number) if is_lost else None
        consumer, idle = holder
        cause = group.cause(consumer, deaths)
        was_overdue, sent.is_overdue = sent.is_overdue, idle > self._lease
        if cause is None and not (was_overdue and sent.is_overdue):
            return None
        return Lost(number, consumer, cause or "", sent.consumer == consumer)

    def remove_abandoned(self, found: group.Snapshots) -> None:
        """Remove entries of dead workers whose driver is dead, too. A running driver has removed its own entries
        before."""
        limit = max(RUN_EXPIRY, 4 * self._lease)
        ours = {(sent.role, sent.entry) for sent in self._sent.values()}
        self._over += [
            (role, entry)
            for role, snapshot in found.items()
            for entry, (_, idle) in (snapshot.pending or {}).items()
            if idle > limit and (role, entry) not in ours
        ]
