"""A byte proxy on a loopback port or a Unix socket, whose connections can be cut."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from random import Random

Address = str | tuple[str, int]
"""Address of a socket: a path, or host and port."""

_RESET = struct.pack("ii", 1, 0)  # linger 0: closing sends a reset
_CHUNK = 1 << 16


class Proxy:
    """Forwards bytes between clients and a server, until it is closed.

    Args:
        address: address to listen on; port 0 means any free port.
        behind: address of the server.
    """

    def __init__(self, address: Address, behind: Address) -> None:
        self._behind = behind
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.socket(_family(address))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(address)
        self._listener.listen(128)
        self.address: Address = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, random: Random) -> bool:
        """Cut a random connection, possibly in the middle of a message. Returns False if there is none."""
        with self._lock:
            if not self._pairs:
                return False
            pair = self._pairs.pop(random.randrange(len(self._pairs)))
        _end(*pair)
        return True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if isinstance(self.address, str):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.address)
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _end(*pair)

    def _accept(self) -> None:
        while True:
            try:
                front = self._listener.accept()[0]
            except OSError:
                return  # it is closed
            back = socket.socket(_family(self._behind))
            try:
                back.connect(self._behind)
            except OSError:  # the server does not listen: close, as without a proxy
                _end(front, back)
                continue
            pair = (front, back)
            with self._lock:
                self._pairs.append(pair)
            for one, other in (pair, pair[::-1]):
                threading.Thread(target=self._pass_on, args=(one, other, pair), daemon=True).start()

    def _pass_on(
        self, one: socket.socket, other: socket.socket, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(_CHUNK):
                other.sendall(data)
        with self._lock:
            if pair in self._pairs:
                self._pairs.remove(pair)
        _end(*pair)


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_UNIX if isinstance(address, str) else socket.AF_INET


def _end(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            if end.family == socket.AF_INET:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.shutdown(socket.SHUT_RDWR)
        end.close()
