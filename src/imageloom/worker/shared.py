"""Memory without a name that a worker shares with its decoding process.

An order is a message with the items to process and with the places of their bytes in the memory. For each item
the process writes a reply into the memory, and counts it. It sends a message after the last item of an order, and
after each `INTERVAL`. So the two processes seldom wake each other, which would cost more than to pass the bytes.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Mapping

from imageloom.errors import InvalidResult, WorkerLost
from imageloom.model import Failure, Plain

ORDER = struct.Struct("=qQQ")
"""One entry of an order: the position of an item in its task, or TASK; where its bytes are, and how many."""
TASK = -1
"""The bytes are those of a task, packed as MessagePack. Entries for its items follow."""
QUESTION = -2
"""The bytes are those of a `files.Question`."""
MOST_ITEMS = 64
"""Maximum number of items in an order."""
MOST_ORDERED = 8 << 20
"""An order has one item, or items with at most so many bytes together."""
INTERVAL = 0.05
"""Seconds after which the process reports that items are done."""

REPLY = struct.Struct("=qQQQddd")
"""Of an item: size of its only output, or DESCRIBED; where this output or a description is; size of the
description; number of decoded pixels; seconds of the stages decode, filter and encode."""
DESCRIBED = -1
"""There is a failure, or there are several outputs, or folders: see the description."""
COUNT = struct.Struct("=Q")
"""Number of items that have a reply, at the start of the memory. The replies follow in the items' order."""
START = COUNT.size + MOST_ITEMS * REPLY.size
"""Where other bytes begin."""
MOST_DESCRIBED = 4 << 20
"""Maximum size of a description in bytes."""
FIRST = 1 << 20
"""Size of new memory in bytes; it grows by whole steps of this size."""
MOST_KEPT = 32 << 20
"""Memory beyond this is given back after the item, in bytes."""


class Encoded(Plain, frozen=True):
    """An output: a file of this size, or a folder of files with these relative paths and sizes."""

    size: int = 0
    files: tuple[tuple[str, int], ...] = ()

    @property
    def sizes(self) -> list[int]:
        return [size for _, size in self.files] or [self.size]


class Description(Plain, frozen=True):
    """What came of an item."""

    outputs: tuple[Encoded, ...] = ()
    """They end where the description begins, one after the other."""
    failure: Failure | None = None
    about: bytes = b""
    """What else is known of a part, or the answer of a question, packed as MessagePack."""


class SharedMemory:
    """Memory that two processes share. Either side can make it larger, none can make it smaller.

    Args:
        file: the open memory file; None to make one.
    """

    def __init__(self, file: int | None = None) -> None:
        if file is None:
            file = os.memfd_create("imageloom", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(file, FIRST)
            # Access beyond the end of a file that became shorter would kill the worker.
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        self.file = file
        self._bytes = mmap.mmap(file, os.fstat(file).st_size)

    def write(self, data: bytes | memoryview, at: int = 0) -> int:
        """Write bytes from a position on. Returns the position behind them.

        Raises:
            WorkerLost: the memory cannot be made larger: there is no more, or files may not be so large.
        """
        end = at + len(data)
        if end > len(self._bytes):
            self._map(max(os.fstat(self.file).st_size, -(-end // FIRST) * FIRST))
        self._bytes[at:end] = data
        return end

    def read(self, start: int, length: int) -> bytes:
        """A copy of bytes.

        Raises:
            InvalidResult: they are outside the memory.
            WorkerLost: there is no memory to read them.
        """
        end = start + length
        if end > len(self._bytes):  # the other side may have made it larger
            size = os.fstat(self.file).st_size
            if end > size:
                raise InvalidResult(f"{length:,} bytes at {start:,}, outside the shared memory")
            self._map(size)
        return self._bytes[start:end]

    @property
    def count(self) -> int:
        """Number of items of the current order that have a reply."""
        found: int = COUNT.unpack_from(self._bytes)[0]
        return found

    @count.setter
    def count(self, count: int) -> None:
        COUNT.pack_into(self._bytes, 0, count)

    def reply(self, number: int) -> tuple[int, int, int, int, float, float, float]:
        """The reply for an item: see REPLY."""
        return REPLY.unpack_from(self._bytes, COUNT.size + number * REPLY.size)

    def add_reply(self, *reply: float) -> None:
        """Write the reply for the next item, and count it."""
        count = self.count
        REPLY.pack_into(self._bytes, COUNT.size + count * REPLY.size, *reply)
        self.count = count + 1

    def give_back(self) -> None:
        """Free the pages if there are many."""
        if len(self._bytes) > MOST_KEPT:
            self._bytes.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        self._bytes.close()
        os.close(self.file)

    def _map(self, size: int) -> None:
        try:
            if size > os.fstat(self.file).st_size:
                os.ftruncate(self.file, size)
            before, self._bytes = self._bytes, mmap.mmap(self.file, size)
        except OSError as error:
            raise WorkerLost(
                f"{size:,} bytes cannot be shared with its decoding process: {error.strerror or error}"
            ) from None
        before.close()


def described(data: bytes | memoryview | Mapping[str, bytes]) -> tuple[Encoded, list[bytes | memoryview]]:
    """The description of an output, and the bytes to write."""
    if isinstance(data, bytes | memoryview):
        return Encoded(len(data)), [data]
    return Encoded(files=tuple((name, len(part)) for name, part in data.items())), list(data.values())
