"""The connections to a relay, limited in number. Those that have shown the token stay, others make room."""

from __future__ import annotations

import contextlib
import socket
from collections import OrderedDict
from typing import Any

from imageloom.errors import StorageError

MOST = 512
"""Maximum number of open connections."""

Peer = tuple[str, int]
"""Host and port of a client."""


class _Connection(socket.socket):
    """A connection that reports its end."""

    listener: Listener
    peer: Peer

    def cut(self) -> None:
        """End it: the event loop sees its end, and closes it."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self.fileno() >= 0:
            self.listener.forget(self.peer, self)
        super().close()


class Listener(socket.socket):
    """A listening socket. At the limit, a new connection replaces the oldest one that has not shown the token.

    All methods are called in the thread of the server's event loop.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._strangers: OrderedDict[Peer, _Connection] = OrderedDict()
        self._known: dict[Peer, _Connection] = {}

    @property
    def count(self) -> int:
        """Number of open connections."""
        return len(self._strangers) + len(self._known)

    def cut_all(self) -> None:
        for connection in (*self._strangers.values(), *self._known.values()):
            connection.cut()

    def accept(self) -> tuple[socket.socket, Any]:
        found, address = super().accept()
        if self.count >= MOST:
            if not self._strangers:
                found.close()
                raise BlockingIOError("too many connections")
            _, oldest = self._strangers.popitem(last=False)
            oldest.cut()
        connection = _Connection(found.family, found.type, found.proto, fileno=found.detach())
        connection.listener, connection.peer = self, address[:2]
        self._strangers[connection.peer] = connection
        return connection, address

    def know(self, host: str, port: int) -> None:
        """A client has shown the token."""
        if connection := self._strangers.pop((host, port), None):
            self._known[host, port] = connection

    def forget(self, peer: Peer, connection: _Connection) -> None:
        """A connection is being closed."""
        for found in (self._strangers, self._known):
            if found.get(peer) is connection:
                del found[peer]


def listen(host: str, port: int) -> Listener:
    """Listen on an address.

    Raises:
        StorageError: this is not possible.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = Listener(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(MOST)
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise StorageError(f"cannot listen on {host}:{port} (--relay): {error.strerror}") from None
