"""Messages between the first rank of an MPI job and the others: bytes, with their kind as the MPI tag. No
pickle."""

from __future__ import annotations

import time
from collections.abc import Iterator

from mpi4py import MPI

from imageloom.engines.mpi.wire import Kind
from imageloom.errors import InvalidResult
from imageloom.scheduling.inbox import MOST_BYTES

MOST_AT_ONCE = 100
"""Maximum number of messages that are read in one turn."""
GRACE = 8.0
"""Time in seconds for the ranks to exit."""
LEAVE_PAUSE = 0.002
"""Seconds between two checks for ranks that exit."""


def receive() -> tuple[int, Kind, bytes] | None:
    """The sender's rank, the kind and the bytes of the next message to this rank; None if there is none.

    Raises:
        InvalidResult: it is too large, or its kind is unknown.
    """
    world, status = MPI.COMM_WORLD, MPI.Status()
    if not world.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG, status):
        return None
    source, tag, size = status.Get_source(), status.Get_tag(), status.Get_count(MPI.BYTE)
    if not 0 <= size <= MOST_BYTES:
        raise InvalidResult(f"a message of {size:,} bytes")
    body = bytearray(size)
    world.Recv([body, MPI.BYTE], source, tag)
    try:
        return source, Kind(tag), bytes(body)
    except ValueError:
        raise InvalidResult(f"a message of kind {tag}") from None


class Hub:
    """The side of the first rank. It must be used by one thread only."""

    def __init__(self) -> None:
        self.ranks = range(1, MPI.COMM_WORLD.Get_size())
        self._sending: list[tuple[MPI.Request, bytes]] = []
        self._left: set[int] = set()

    def send(self, rank: int, kind: Kind, body: bytes = b"") -> None:
        """Send a message without blocking, to avoid a deadlock with a rank that is sending to this one."""
        self._sending.append((MPI.COMM_WORLD.Isend([body, MPI.BYTE], rank, kind), body))

    def receive(self) -> Iterator[tuple[int, Kind, bytes]]:
        """Yield the messages that have arrived.

        Raises:
            InvalidResult: a message is invalid.
        """
        self._sending = [pair for pair in self._sending if not pair[0].Test()]
        for _ in range(MOST_AT_ONCE):
            message = receive()
            if message is None:
                return
            if message[1] is Kind.LEFT:
                self._left.add(message[0])
            else:
                yield message

    def dismiss(self) -> bool:
        """Ask all ranks to exit. Returns False if one did not exit in time."""
        for rank in self.ranks:
            self.send(rank, Kind.LEAVE)
        until = time.monotonic() + GRACE
        while len(self._left) < len(self.ranks) and time.monotonic() < until:
            for _ in self.receive():
                """Results that arrive meanwhile are ignored."""
            time.sleep(LEAVE_PAUSE)
        return len(self._left) == len(self.ranks)
