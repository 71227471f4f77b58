"""A limit on the connections to each port of the engine zeromq. libzmq itself has none."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from imageloom.engines.zeromq.wire import log
from imageloom.system.machine import open_files

MOST_CONNECTIONS = 1024
"""Maximum number of connections to each port, and at most an eighth of the process's limit of open files."""


class ConnectionLimit:
    """Monitors a listening socket, and closes connections above the limit.

    It must be used in the socket's thread.
    """

    def __init__(self, channel: zmq.Socket[bytes]) -> None:
        self.most = min(MOST_CONNECTIONS, open_files() // 8)
        self.monitor: Any = channel.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._open: set[int] = set()
        """File descriptors of the open connections."""
        self._is_full = False

    def update(self) -> None:
        """Handle new and closed connections."""
        while True:
            try:
                event = recv_monitor_message(self.monitor, zmq.NOBLOCK)
            except zmq.Again:
                return
            if event["event"] == zmq.EVENT_DISCONNECTED:
                self._open.discard(event["value"])
                self._is_full = self._is_full and len(self._open) > self.most // 2
            else:
                self._open.add(event["value"])
                if len(self._open) > self.most:
                    self._refuse(event["value"], event["endpoint"])

    def _refuse(self, descriptor: int, endpoint: bytes) -> None:
        if not self._is_full:
            self._is_full = True
            log.warning(
                "%s has %d connections, the maximum: refusing new connections", endpoint.decode(), self.most
            )
        # libzmq may have closed it already, and reused its descriptor: check that it is a connection to this port.
        # The descriptor stays libzmq's; a copy of it would need another one, and there may be none.
        with contextlib.suppress(OSError):
            connection = socket.socket(fileno=descriptor)
            try:
                if connection.getsockname()[1] == int(endpoint.rpartition(b":")[2]):
                    connection.shutdown(socket.SHUT_RDWR)
            finally:
                connection.detach()
