"""A connection to a Redis server for what need not be answered before the work goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis import Redis

Command = tuple[Any, ...]


class Line:
    """Sends commands, and hears the answers when it is used next. What has none by then is sent again."""

    def __init__(self, client: Redis) -> None:
        self._connection: Any = client.connection_pool.make_connection()
        self._unheard: deque[Command] = deque()
        """Commands without an answer, in their order."""
        self._sent = 0
        """How many of them are on their way."""

    def say(self, commands: Iterable[Command]) -> None:
        """Add commands to those that `flush` sends."""
        self._unheard += commands

    def flush(self, wait: bool) -> None:
        """Send what is not on its way: once what was sent before is answered.

        Args:
            wait: for the answers, too.

        Raises:
            RedisError: one of them was not heard, or has failed. The next call sends it again.
        """
        try:
            self._hear()
            self._connection.send_packed_command(self._connection.pack_commands(self._unheard))
            self._sent = len(self._unheard)
            if wait:
                self._hear()
        except BaseException:
            self._sent = 0
            self._connection.disconnect()
            raise

    def forget(self) -> None:
        """Give up what was not heard."""
        self._unheard.clear()
        self._sent = 0
        self._connection.disconnect()

    def _hear(self) -> None:
        while self._sent:
            self._connection.read_response()
            self._sent -= 1
            self._unheard.popleft()
