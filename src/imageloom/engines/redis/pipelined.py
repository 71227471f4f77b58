"""A connection to a Redis server for commands whose answers are read later."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis import Redis

Command = tuple[Any, ...]


class PipelinedConnection:
    """Sends commands, and reads their answers in the next call. Commands without an answer are sent again."""

    def __init__(self, client: Redis) -> None:
        self._connection: Any = client.connection_pool.make_connection()
        self._unanswered: deque[Command] = deque()
        """Commands without an answer, in the order of the calls of `add`."""
        self._sent = 0
        """Number of them that are sent."""

    def add(self, commands: Iterable[Command]) -> None:
        """Add commands to those that `flush` sends."""
        self._unanswered += commands

    def flush(self, wait: bool) -> None:
        """Read the answers to the commands sent before; then send the others.

        Args:
            wait: whether to wait for their answers, too.

        Raises:
            RedisError: a command failed, or its answer was lost. The next call sends it again.
        """
        try:
            self._read_answers()
            self._connection.send_packed_command(self._connection.pack_commands(self._unanswered))
            self._sent = len(self._unanswered)
            if wait:
                self._read_answers()
        except BaseException:
            self._sent = 0
            self._connection.disconnect()
            raise

    def clear(self) -> None:
        """Discard all commands without an answer."""
        self._unanswered.clear()
        self._sent = 0
        self._connection.disconnect()

    def _read_answers(self) -> None:
        while self._sent:
            self._connection.read_response()
            self._sent -= 1
            self._unanswered.popleft()
