"""What the first rank of an MPI job sends to the job's supervisor."""

from __future__ import annotations

import msgspec

from imageloom.model import Plain


class Message(Plain, frozen=True):
    """From the first rank to the supervisor: the answer to a task; the first one says that all ranks are there."""

    task: int = 0
    outcome: msgspec.Raw = msgspec.Raw(b"\xc0")
    """MessagePack of the `Outcome`."""
    error: str = ""
    """In place of an outcome."""
    shared: tuple[str, ...] = ()
    """Of the first message: the files of shared memory that the job would leave behind if it were killed."""
