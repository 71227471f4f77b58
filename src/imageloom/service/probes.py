"""A small HTTP server for probes and scrapers. Its resources do not depend on the number of clients.

One thread serves all connections. Their number is limited, and each one may last a few seconds and send one short
request. Above the limit, the oldest connection gets status 503 and is closed. So a client that sends its request
at once is answered at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus

TEXT = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of the text format of Prometheus."""
PATIENCE = 5.0
"""Time-out of a connection, in seconds."""
MOST_CONNECTIONS = 64
"""Maximum number of open connections."""
MOST_REQUEST = 8192
"""Maximum size of a request, in bytes."""
TICK = 0.5
"""Seconds between two checks of time-outs."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    until: float
    received: bytes = b""
    is_asked: bool = False
    """Whether its request has arrived. Later data is ignored."""


class ProbeServer:
    """Answers requests until it is closed.

    Args:
        listener: a listening socket. `close` closes it, too.
        answer: returns the HTTP status and the text for a path.
        slow: paths whose answers may be slow. They run one at a time, in another thread.
    """

    def __init__(
        self, listener: socket.socket, answer: Callable[[str], tuple[int, str]], slow: tuple[str, ...]
    ) -> None:
        self._listener, self._answer, self._slow = listener, answer, slow
        listener.setblocking(False)
        self._wake_reader, self._wake_writer = os.pipe()
        self._open: dict[_Connection, None] = {}
        """Open connections, the oldest first."""
        self._answered: deque[tuple[_Connection, bytes]] = deque()
        self._scrapes = ThreadPoolExecutor(1, "scrape")
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._is_closing = True
        os.write(self._wake_writer, b".")
        self._thread.join()
        self._scrapes.shutdown(cancel_futures=True)
        os.close(self._wake_writer)
        os.close(self._wake_reader)

    def _run(self) -> None:
        while not self._is_closing:
            for key, _ in self._selector.select(TICK):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj == self._wake_reader:
                    os.read(self._wake_reader, 4096)
                elif key.data in self._open:  # it may have been closed meanwhile
                    self._receive(key.data)
            while self._answered:
                self._send(*self._answered.popleft())
            now = time.monotonic()
            for connection in [one for one in self._open if one.until < now]:
                self._drop(connection)
        for connection in list(self._open):
            self._drop(connection)
        self._selector.close()
        self._listener.close()

    def _accept(self) -> None:
        if len(self._open) >= MOST_CONNECTIONS:
            oldest = next(iter(self._open))
            self._send(oldest, _response(503, "too many connections\n"))
            self._drop(oldest)
        try:
            accepted, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no file descriptor is available
            time.sleep(TICK / 10)
            return
        accepted.setblocking(False)
        connection = _Connection(accepted, time.monotonic() + PATIENCE)
        self._open[connection] = None
        self._selector.register(accepted, selectors.EVENT_READ, connection)

    def _drop(self, connection: _Connection) -> None:
        if connection in self._open:
            del self._open[connection]
            self._selector.unregister(connection.socket)
            connection.socket.close()

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(MOST_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
        elif not connection.is_asked:
            connection.received += data
            self._parse(connection)

    def _parse(self, connection: _Connection) -> None:
        """Answer a complete request, and refuse invalid data."""
        head, end, _ = connection.received.partition(b"\r\n\r\n")
        if len(head) > MOST_REQUEST:
            self._send(connection, _response(431, f"a request must have at most {MOST_REQUEST} bytes\n"))
        elif end:
            found = re.match(rb"([A-Z]+) ([!-~]+) HTTP/1\.[01](\r\n|$)", head)
            if found is None:
                self._send(connection, _response(400, "this is not an HTTP request\n"))
            elif found[1] not in (b"GET", b"HEAD"):
                self._send(connection, _response(405, "only GET and HEAD are supported\n"))
            else:
                self._ask(connection, found[2].decode().partition("?")[0], has_body=found[1] == b"GET")

    def _ask(self, connection: _Connection, path: str, has_body: bool) -> None:
        def ask() -> None:
            try:
                status, text = self._answer(path)
            except Exception:
                log.exception("cannot answer %s", path)
                status, text = 500, "internal error: see the log\n"
            self._answered.append((connection, _response(status, text, has_body)))
            os.write(self._wake_writer, b".")

        connection.is_asked = True
        if path in self._slow:
            self._scrapes.submit(ask)
        else:
            ask()

    def _send(self, connection: _Connection, response: bytes) -> None:
        """Send an answer, which fits into the socket's buffer. The client closes the connection, or it times
        out."""
        connection.is_asked = True
        with contextlib.suppress(OSError):
            connection.socket.send(response)
            connection.socket.shutdown(socket.SHUT_WR)


def _response(status: int, text: str, has_body: bool = True) -> bytes:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nServer: imageloom\r\nContent-Type: {TEXT}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (body if has_body else b"")
