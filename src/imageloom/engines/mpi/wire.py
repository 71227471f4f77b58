"""Messages between the processes of an MPI job and its supervisor: a rank, a kind and bytes."""

from __future__ import annotations

import os
from enum import IntEnum
from socket import gethostname
from struct import Struct

from imageloom.errors import InvalidResult
from imageloom.model import Plain

_HEAD = Struct("!IB")


class Kind(IntEnum):
    """The kind of a message. Its bytes are MessagePack of the type named here, or empty."""

    READY = 1
    """From a rank: it is ready, `Peer`. From the first rank to the supervisor: all ranks are ready, `Ready`."""
    TASK = 2
    """To a rank: `model.Task`, whose id is the delivery's number."""
    DROP = 3
    """To a rank: the number of a delivery, and how many of its first items are still needed."""
    RESTART = 4
    """To a rank: abandon all tasks, and send READY again."""
    RESULT = 5
    """From a rank: `worker.message.Message`."""
    LEAVE = 6
    """To a rank: exit."""
    LEFT = 7
    """From a rank: it exits."""


class Peer(Plain, frozen=True):
    """A rank's process."""

    host: str
    pid: int


def this_process() -> Peer:
    return Peer(gethostname(), os.getpid())


class Ready(Plain, frozen=True):
    """A job is ready for tasks."""

    peers: tuple[Peer, ...]
    """All ranks in the order of their numbers. The first one runs no tasks."""
    shared: tuple[str, ...] = ()
    """Paths of the files of shared memory to remove if the job is killed."""


def pack(rank: int, kind: Kind, body: bytes = b"") -> bytes:
    """A message between the supervisor and the first rank.

    Args:
        rank: the sender or the receiver.
    """
    return _HEAD.pack(rank, kind) + body


def unpack(data: bytes) -> tuple[int, Kind, bytes]:
    """Rank, kind and bytes of a message.

    Raises:
        InvalidResult: the data is not a message.
    """
    if len(data) < _HEAD.size:
        raise InvalidResult("a message that is too short")
    rank, kind = _HEAD.unpack_from(data)
    try:
        return rank, Kind(kind), data[_HEAD.size :]
    except ValueError:
        raise InvalidResult(f"a message of kind {kind}") from None
