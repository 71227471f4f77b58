"""What the processes of an MPI job and its supervisor send each other: a rank, a kind and bytes."""

from __future__ import annotations

import os
from enum import IntEnum
from socket import gethostname
from struct import Struct

from imageloom.errors import InvalidResult
from imageloom.model import Plain

_HEAD = Struct("!IB")


class Kind(IntEnum):
    """What a message says; its bytes are MessagePack of what is named here, or empty."""

    READY = 1
    """A rank can take tasks: `Peer`. From the first rank to the supervisor: all of them can, `Ready`."""
    TASK = 2
    """To a rank: `model.Task`, whose id is the delivery's number."""
    DROP = 3
    """To a rank: the number of a delivery, and how many of its first items are still wanted."""
    RESTART = 4
    """To a rank: give up everything, and say READY again."""
    RESULT = 5
    """From a rank: `worker.message.Message`."""
    LEAVE = 6
    """To a rank: end."""
    LEFT = 7
    """From a rank: it ends."""


class Peer(Plain, frozen=True):
    """A rank's process."""

    host: str
    pid: int


def this_process() -> Peer:
    return Peer(gethostname(), os.getpid())


class Ready(Plain, frozen=True):
    """A job can take tasks."""

    peers: tuple[Peer, ...]
    """All ranks, by their number; the first one does no tasks."""
    shared: tuple[str, ...] = ()
    """Paths of the files of shared memory that the job would leave behind if it were killed."""


def pack(rank: int, kind: Kind, body: bytes = b"") -> bytes:
    """A message between the supervisor and the first rank.

    Args:
        rank: that it comes from or goes to.
    """
    return _HEAD.pack(rank, kind) + body


def unpack(data: bytes) -> tuple[int, Kind, bytes]:
    """Rank, kind and bytes of a message.

    Raises:
        InvalidResult: it is none.
    """
    if len(data) < _HEAD.size:
        raise InvalidResult("a message that is too short")
    rank, kind = _HEAD.unpack_from(data)
    try:
        return rank, Kind(kind), data[_HEAD.size :]
    except ValueError:
        raise InvalidResult(f"a message of kind {kind}") from None
