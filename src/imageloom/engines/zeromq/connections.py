"""How many connections the ports of the engine zeromq keep: libzmq itself accepts until no descriptor is left."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from imageloom.engines.zeromq.wire import log
from imageloom.system.machine import open_files

MOST_CONNECTIONS = 1024
"""To each port; fewer where the process may have fewer than eight times as many files open."""


class ConnectionLimit:
    """Watches a socket that listens, and closes what comes beyond the bound.

    Its thread is the socket's.
    """

    def __init__(self, channel: zmq.Socket[bytes]) -> None:
        self.most = min(MOST_CONNECTIONS, open_files() // 8)
        self.monitor: Any = channel.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._open: set[int] = set()
        """Their descriptors."""
        self._is_full = False

    def update(self) -> None:
        """Take in who has come and gone."""
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
        # libzmq may have closed it already, and its number may be a new connection's: only ours is looked for.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
            if connection.getsockname()[1] == int(endpoint.rpartition(b":")[2]):
                connection.shutdown(socket.SHUT_RDWR)
