"""The first rank of a supervised MPI job, which relays messages, and the main function of all its ranks."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import sys
from multiprocessing.connection import Connection

import msgspec
from mpi4py import MPI

from imageloom.engines.mpi.hub import Hub
from imageloom.engines.mpi.rank import serve
from imageloom.engines.mpi.wire import Kind, Peer, Ready, pack, this_process, unpack
from imageloom.scheduling.inbox import Inbox
from imageloom.system.exits import die_with_parent

LONGEST_PAUSE = 4
"""Milliseconds between two checks for messages of ranks."""


class Link:
    """The socket to the supervisor. Writing never blocks, on either side.

    Args:
        address: path of the socket.
    """

    def __init__(self, address: str) -> None:
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(address)
        connected.setblocking(False)
        self._pipe = Connection(connected.detach())
        self.file = self._pipe.fileno()
        self._inbox = Inbox(self._pipe)
        self._outgoing = bytearray()

    @property
    def has_outgoing(self) -> bool:
        return bool(self._outgoing)

    def send(self, rank: int, kind: Kind, body: bytes = b"") -> None:
        data = pack(rank, kind, body)
        self._outgoing += struct.pack("!i", len(data)) + data

    def flush(self) -> None:
        """Write as much as possible without blocking."""
        with contextlib.suppress(BlockingIOError):
            while self._outgoing:
                del self._outgoing[: os.write(self.file, self._outgoing)]

    def receive(self) -> list[tuple[int, Kind, bytes]]:
        """The messages that have arrived. Call it only if the socket is readable.

        Raises:
            EOFError: the supervisor has closed the socket.
        """
        return [unpack(data) for data in self._inbox.take()]


class Relay:
    """Relays messages until the supervisor closes its socket."""

    def __init__(self, hub: Hub, link: Link) -> None:
        self._hub, self._link = hub, link
        self._peers = {0: this_process()}
        self._poll = select.poll()
        self._poll.register(link.file)

    def run(self) -> None:
        pause = 0
        with contextlib.suppress(EOFError, OSError):
            while True:
                found = list(self._hub.receive())
                for rank, kind, body in found:
                    if kind is Kind.READY:
                        self._note_ready(rank, body)
                    else:
                        self._link.send(rank, kind, body)
                self._link.flush()
                writes = select.POLLOUT if self._link.has_outgoing else 0
                self._poll.modify(self._link.file, select.POLLIN | writes)
                pause = 0 if found else min(pause + 1, LONGEST_PAUSE)
                if any(event != select.POLLOUT for _, event in self._poll.poll(pause)):
                    for rank, kind, body in self._link.receive():
                        self._hub.send(rank, kind, body)

    def _note_ready(self, rank: int, body: bytes) -> None:
        self._peers[rank] = msgspec.msgpack.decode(body, type=Peer)
        if len(self._peers) > len(self._hub.ranks):
            ready = Ready(tuple(peer for _, peer in sorted(self._peers.items())), _shared_memory())
            self._link.send(0, Kind.READY, msgspec.msgpack.encode(ready))


def _shared_memory() -> tuple[str, ...]:
    """Paths of the files of MPICH's shared memory that this process uses."""
    if sys.platform != "linux":
        return ()
    with open("/proc/self/maps") as maps:
        paths = {line.split()[-1] for line in maps if "/dev/shm/mpich" in line}
    return tuple(sorted(paths))


def main(address: str, threads: int) -> None:
    """Run as a rank of a supervised job.

    Args:
        address: path of the supervisor's socket.
        threads: number of tasks that a rank runs at the same time.
    """
    if MPI.COMM_WORLD.Get_rank() > 0:
        serve(threads)
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hub = Hub()
    Relay(hub, Link(address)).run()
    if not hub.dismiss():
        MPI.COMM_WORLD.Abort(1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
