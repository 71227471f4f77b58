"""Memory without a name that a worker shares with its decoding process, and the messages about what is in it.

All messages of one direction have the same size. Data and descriptions are in the memory, and a message tells where
they are.
A photo with one output needs no description, so its messages cost a few microseconds.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Mapping

from imageloom.errors import InvalidResult
from imageloom.model import Failure, Plain

ORDER = struct.Struct("=qQQ")
"""To the process: the position of an item in its task, or TASK; where its bytes are, and how many."""
TASK = -1
"""The bytes are those of a task, packed as MessagePack. Orders for its items follow."""
REPLY = struct.Struct("=qQQQddd")
"""From the process: size of the only output, at the start of the memory, or DESCRIBED; where a description is, and
its size; number of decoded pixels; seconds of the stages decode, filter and encode."""
DESCRIBED = -1
"""There is a failure, or there are several outputs, or folders: see the description."""
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
    """What came of an item. The outputs are at the start of the memory, one after the other."""

    outputs: tuple[Encoded, ...] = ()
    failure: Failure | None = None


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

    def write(self, data: bytes, at: int = 0) -> int:
        """Write bytes from a position on. Returns the position behind them."""
        end = at + len(data)
        if end > len(self._bytes):
            self._map(max(os.fstat(self.file).st_size, -(-end // FIRST) * FIRST))
        self._bytes[at:end] = data
        return end

    def read(self, start: int, length: int) -> bytes:
        """A copy of bytes.

        Raises:
            InvalidResult: they are outside the memory.
        """
        end = start + length
        if end > len(self._bytes):  # the other side may have made it larger
            size = os.fstat(self.file).st_size
            if end > size:
                raise InvalidResult(f"{length:,} bytes at {start:,}, outside the shared memory")
            self._map(size)
        return self._bytes[start:end]

    def give_back(self) -> None:
        """Free the pages if there are many."""
        if len(self._bytes) > MOST_KEPT:
            self._bytes.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        self._bytes.close()
        os.close(self.file)

    def _map(self, size: int) -> None:
        if size > os.fstat(self.file).st_size:
            os.ftruncate(self.file, size)
        before, self._bytes = self._bytes, mmap.mmap(self.file, size)
        before.close()


def described(data: bytes | Mapping[str, bytes]) -> tuple[Encoded, list[bytes]]:
    """The description of an encoded output, and the bytes to write."""
    if isinstance(data, bytes):
        return Encoded(len(data)), [data]
    return Encoded(files=tuple((name, len(part)) for name, part in data.items())), list(data.values())
