"""Reads replies of a Redis server within a memory limit, because other clients may write to the server.

The parser of redis-py accepts replies of any size. This parser checks the size of a string before it reads it.
"""

from __future__ import annotations

import builtins
import select
from typing import Any, Final

from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError, InvalidResponse, TimeoutError

OVERSIZED: Final = object()
"""Replaces a string or an array that exceeds its own limit."""
_AT_ONCE = 1 << 16
_OVERHEAD = 64
"""Memory of an element of a reply in addition to its content, in bytes."""


def _number(digits: bytes) -> int:
    try:
        return int(digits)
    except ValueError:
        raise InvalidResponse(f"the server's reply is invalid: {digits[:40]!r} is not a number") from None


class BoundedParser(BaseParser):
    """A parser for protocol 2 of Redis. It skips values above its limits.

    `OVERSIZED` replaces a value above its own limit. None replaces a value above the limit of the whole reply.
    """

    most_string = 1 << 20
    """Maximum size of one string, in bytes."""
    most_elements = 200_000
    """Maximum number of elements of one array."""
    most_reply = 8 << 20
    """Maximum memory of one reply with its elements, in bytes."""

    def __init__(self, socket_read_size: int) -> None:
        self._socket: Any = None
        self._data, self._at = b"", 0
        self._room = 0

    def on_connect(self, connection: Any) -> None:
        self._socket = connection._sock
        self._data, self._at = b"", 0

    def on_disconnect(self) -> None:
        self._socket = None

    def can_read(self, timeout: float = 0) -> bool:
        """Whether a part of a reply has arrived, or the connection is closed."""
        if self._socket is None:
            return False
        if self._at < len(self._data) or getattr(self._socket, "pending", int)():
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(round(1000 * timeout)))

    def read_response(self, *_: object, **__: object) -> Any:
        """The next reply: bytes, an integer, None, an error, or a list of these.

        Raises:
            RedisError: the reply is invalid, or the connection is lost.
        """
        self._room = self.most_reply
        try:
            return self._parse()
        except RecursionError:
            raise InvalidResponse("the server's reply has too many arrays inside each other") from None

    def _parse(self) -> Any:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return self._string(_number(rest))
        if kind == b"*":
            return self._array(_number(rest))
        if kind == b":":
            return _number(rest)
        if kind == b"+":
            return rest
        if kind != b"-":
            raise InvalidResponse(f"the server's reply is invalid: it begins with {line[:40]!r}")
        error = self.parse_error(rest.decode(errors="replace"))  # type: ignore[no-untyped-call]
        if isinstance(error, ConnectionError):
            raise error
        return error

    def _string(self, size: int) -> Any:
        if size < 0:
            return None
        if size > self.most_string:
            return self._skip_string(size, OVERSIZED)
        self._room -= size + _OVERHEAD
        if self._room < 0:
            return self._skip_string(size, None)
        content = self._content(size)
        self._skip_string(0, None)
        return content

    def _content(self, size: int) -> bytes:
        """The next bytes, read into a buffer of their size: a buffer that grows would leave gaps in memory."""
        start = self._at
        self._at = min(start + size, len(self._data))
        found = self._data[start : self._at]
        if len(found) == size:
            return found
        content = bytearray(size)
        content[: len(found)] = found
        room = memoryview(content)[len(found) :]
        while room:
            room = room[self._received("recv_into", room) :]
        return bytes(content)

    def _skip_string(self, size: int, instead: object) -> object:
        left = size + 2
        while left:
            if self._at == len(self._data):
                self._receive()
            step = min(left, len(self._data) - self._at)
            self._at += step
            left -= step
        return instead

    def _array(self, count: int) -> Any:
        if count < 0:
            return None
        if count <= self.most_elements:
            return [self._parse() for _ in range(count)]
        room, self._room = self._room, 0
        for _ in range(count):
            self._parse()
        self._room = room
        return OVERSIZED

    def _line(self) -> bytes:
        end = self._data.find(b"\r\n", self._at)
        while end < 0:
            if len(self._data) - self._at > _AT_ONCE:
                raise InvalidResponse("the server sent a line without an end")
            self._receive()
            end = self._data.find(b"\r\n", self._at)
        start, self._at = self._at, end + 2
        return self._data[start:end]

    def _receive(self) -> None:
        data = self._received("recv", _AT_ONCE)
        self._data = self._data[self._at :] + data
        self._at = 0

    def _received(self, method: str, argument: object) -> Any:
        """The result of a call of the socket, which is not empty."""
        if self._socket is None:
            raise ConnectionError("not connected")
        try:
            found = getattr(self._socket, method)(argument)
        except builtins.TimeoutError:
            raise TimeoutError("the server does not answer") from None
        except OSError as error:
            raise ConnectionError(f"cannot read from the server: {error}") from None
        if not found:
            raise ConnectionError("the server closed the connection")
        return found


class TaskParser(BoundedParser):
    """The parser of workers, which read one task at a time."""

    most_string = 16 << 20
    most_elements = 1000
    most_reply = 64 << 20


class ResultsParser(BoundedParser):
    """The parser of the driver, which reads many results at a time."""

    most_elements = 1000
    most_reply = 4 << 20
