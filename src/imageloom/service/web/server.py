"""The HTTP server: uvicorn, with bounds on its connections."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from imageloom.errors import StorageError, UsageError
from imageloom.service.web.events import Streams
from imageloom.service.web.gate import Gate
from imageloom.system.machine import is_loopback

MOST_CONNECTIONS = 512
"""Maximum number of open connections. A new one above it is closed."""
MOST_OF_HOST = 400
"""The same of one host."""
FIRST_REQUEST = 10.0
"""Seconds within which the head of a request must have arrived, after its first byte or on a new connection."""
KEPT = 15
"""Seconds for which a connection without a request stays open."""
MOST_HEAD = 16 << 10
"""Maximum size of a request's head, in bytes."""
DEFAULT_PORTS = (80, 443)
"""Browsers omit these ports in the Host header."""
LEAVING = 3
"""Seconds for requests in progress when the server ends."""


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 on connections that are limited in number, and that send the head of each request in time."""

    def connection_made(self, transport: Any) -> None:
        peer = _peer(transport)
        of_host = sum(_peer(other.transport) == peer for other in self.connections)
        if len(self.connections) >= MOST_CONNECTIONS or of_host >= MOST_OF_HOST:
            transport.abort()
            self.is_refused = True
            return
        self.is_refused = False
        super().connection_made(transport)
        self._deadline: asyncio.TimerHandle | None = None
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_refused:
            self._end_deadline()
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.is_refused:
            super().data_received(data)
            self._watch_head()

    def _watch_head(self) -> None:
        """Close the connection if no request is in progress, and the rest of a head does not arrive in time."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._end_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(FIRST_REQUEST, self.transport.abort)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None


def _peer(transport: Any) -> str:
    """The host at the other end of a connection."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if name else ""


def configured(app: ASGIApp, **more: Any) -> uvicorn.Config:
    """The settings of a server whose connections are bounded.

    Args:
        more: further settings of `uvicorn.Config`.
    """
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEPT,
        h11_max_incomplete_event_size=MOST_HEAD,
        **more,
    )


class WebServer:
    """Serves an application in a thread of its own, until it is closed.

    Args:
        listener: a listening socket.
        certificate, key: paths of the files for TLS; empty for none.

    Raises:
        UsageError: the certificate or the key cannot be used.
    """

    def __init__(
        self, app: Gate, streams: Streams, listener: socket.socket, certificate: str, key: str
    ) -> None:
        self._listener, self._streams = listener, streams
        if certificate:
            try:
                ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
            except (OSError, ssl.SSLError) as error:
                raise UsageError(
                    f"cannot use {certificate} with {key} (--certificate, --key): {error}"
                ) from None
        config = configured(
            app,
            timeout_graceful_shutdown=LEAVING,
            ssl_certfile=certificate or None,
            ssl_keyfile=key or None,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.run(self._server.serve([self._listener]))

    def close(self) -> None:
        """Finish the requests in progress, for a short time."""
        self._streams.close()
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()


def listen(address: str, has_tls: bool) -> socket.socket:
    """A listening socket.

    Args:
        address: HOST:PORT; port 0 is any free one.
        has_tls: whether browsers reach it by TLS.

    Raises:
        UsageError: the address is not valid, or other machines can reach it without TLS.
        StorageError: it cannot listen there.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--listen {address}: expected HOST:PORT")
    host = host.strip("[]")
    if not has_tls and not is_loopback(host):
        raise UsageError(
            f"--listen {address}: other machines would send their tokens to it in the clear: "
            "give --certificate and --key, or --behind-proxy if a proxy in front of it has TLS"
        )
    try:
        family = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, int(port)), family=family, backlog=128)
    except OSError as error:
        raise StorageError(f"cannot listen on {address} (--listen): {error.strerror}") from None


def hosts_of(address: str, port: int, more: tuple[str, ...]) -> set[str]:
    """The values of Host for a server at this address: its own, and those that its operator named."""
    host = address.rpartition(":")[0].strip("[]")
    names = (
        {"localhost", "127.0.0.1", "[::1]"} if is_loopback(host) else {f"[{host}]" if ":" in host else host}
    )
    names.discard("0.0.0.0")
    names.discard("[::]")
    found = {f"{name}:{port}".lower() for name in names} | {name.lower() for name in more}
    return found | {name.lower() for name in names if port in DEFAULT_PORTS}
