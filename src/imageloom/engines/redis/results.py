"""The driver reads the stream of a run's results: without blocking, and within a memory limit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from redis.exceptions import TimeoutError

from imageloom.engines.redis.replies import OVERSIZED, ResultsParser
from imageloom.engines.redis.wire import PATIENCE, SILENCE, log

if TYPE_CHECKING:
    from redis import Redis

MOST_READ = ResultsParser.most_elements
"""Maximum number of entries in one request."""

Fields = dict[bytes, bytes]


class ResultsReader:
    """Reads entries from the beginning of a stream. Its next request deletes the entries that it has read.

    It has its own connections, because a connection that waits for entries cannot send other commands.

    Args:
        client: client of the server.
        key: key of the stream.
    """

    def __init__(self, client: Redis, key: str) -> None:
        self._key = key
        self._waiting, self._immediate = (_connection(client) for _ in range(2))
        self._read: list[bytes] = []
        """Ids of entries that were read and are still in the stream."""
        self._early: set[bytes] = set()
        """Ids of entries that were read, but may also be in the pending answer to an earlier request."""
        self._count = MOST_READ
        """Number of entries to request. It is reduced while entries are large."""
        self.is_asked = False
        """Whether a request is pending."""
        self._asked = 0.0

    def fileno(self) -> int:
        """The file descriptor on which the answer arrives."""
        file: int = self._waiting._sock.fileno()
        return file

    @property
    def has_answer(self) -> bool:
        """Whether a part of the answer has arrived."""
        return bool(self.is_asked and self._waiting.can_read(0))

    def ask(self) -> None:
        """Request entries, unless a request is pending. The server answers when there are entries, or after
        `PATIENCE`.

        Raises:
            RedisError: the server cannot be reached, or has not answered for too long.
        """
        if not self.is_asked:
            self._request(self._waiting, "BLOCK", round(1000 * PATIENCE))
            self.is_asked, self._asked = True, time.monotonic()
        elif time.monotonic() > self._asked + SILENCE:
            raise TimeoutError("the server does not answer")

    def take(self) -> list[Fields | None]:
        """The entries in the server's answer; None for an entry that is too large.

        Raises:
            RedisError: the connection was lost.
        """
        self.is_asked = False
        taken = self._answer(self._waiting)
        self._early.clear()
        return taken

    def take_all(self) -> Iterator[list[Fields | None]]:
        """Yield all entries that are in the stream now, one answer of the server after the other.

        Raises:
            RedisError: the server cannot be reached.
        """
        for _ in range(10):
            self._request(self._immediate)
            new = self._answer(self._immediate)
            if self.is_asked:
                self._early.update(self._read)
            if not new:
                return
            yield new

    def reset(self) -> None:
        """Discard the pending request after its connection was lost."""
        self.is_asked = False
        self._waiting.disconnect()
        self._immediate.disconnect()

    close = reset

    def _request(self, connection: Any, *block: object) -> None:
        commands: list[tuple[object, ...]] = [
            ("XREAD", "COUNT", self._count, *block, "STREAMS", self._key, "0")
        ]
        if self._read:
            commands.insert(0, ("XDEL", self._key, *self._read))
        connection.send_packed_command(connection.pack_commands(commands))
        if self._read:
            connection.read_response()
            self._read = []

    def _answer(self, connection: Any) -> list[Fields | None]:
        found = connection.read_response()
        entries = found[0][1] if found else []
        taken: list[Fields | None] = []
        before = len(self._read)
        for entry, fields in entries:
            if entry is None:  # the limit of the whole answer was reached before it
                break
            is_oversized = fields is OVERSIZED or OVERSIZED in fields
            if not is_oversized and None in fields:
                if len(self._read) > before:  # it is read again, as the first entry
                    break
                is_oversized = True
            self._read.append(entry)
            if entry in self._early:
                continue
            if is_oversized:
                log.warning(
                    "deleted an entry of the results: it has more than %d bytes", ResultsParser.most_string
                )
            taken.append(None if is_oversized else dict(zip(fields[::2], fields[1::2], strict=False)))
        count = len(self._read) - before
        self._count = max(1, count) if count < len(entries) else min(2 * self._count, MOST_READ)
        return taken


def _connection(client: Redis) -> Any:
    connection: Any = client.connection_pool.make_connection()
    connection.set_parser(ResultsParser)
    return connection
