"""Reads numbers from headers, in memory or in a file that is read in pieces of limited size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from imageloom.errors import LimitExceeded

HEAD = 16 << 10
"""Number of bytes of a file that are read first; most headers are shorter."""
MOST_READ = 64 << 20
"""Maximum number of bytes that are read from one file for its header."""
MOST_AT_ONCE = 16 << 20
"""Maximum number of bytes of one part of a header, or of one block of metadata."""
_LARGEST_PIECE = 1 << 20


class MoreNeeded(Exception):
    """The header is longer than the given bytes."""


class View:
    """The bytes of a file, for access by slices. A header's parser can jump in the file without reading all of it.

    A slice inside the last piece needs no reading. The pieces grow while they are read in sequence.

    Args:
        read: (position, n) -> n bytes from a position.
        size: size of the file in bytes.
        head: the first bytes, if they were already read.
        most: maximum number of bytes of all pieces together.

    Raises:
        LimitExceeded: a slice is over `MOST_AT_ONCE`, or all pieces together are over the limit.
        MoreNeeded: the file is shorter than its size.
    """

    def __init__(
        self, read: Callable[[int, int], bytes], size: int, head: bytes = b"", most: int = MOST_READ
    ) -> None:
        self._read = read
        self._size = size
        self._piece, self._at = head, 0
        self._step = HEAD
        self._total, self._most = 0, most

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, key: slice) -> bytes:
        start, stop, _ = key.indices(self._size)
        if stop <= start:
            return b""
        if start < self._at or stop > self._at + len(self._piece):
            self._fetch(start, stop)
        return self._piece[start - self._at : stop - self._at]

    def _fetch(self, start: int, stop: int) -> None:
        follows = self._at <= start <= self._at + len(self._piece)
        self._step = min(2 * self._step, _LARGEST_PIECE) if follows else HEAD
        length = min(max(stop - start, self._step), self._size - start)
        self._total += length
        if stop - start > MOST_AT_ONCE:
            raise LimitExceeded(
                f"a part of its header takes {stop - start:,} bytes, over the limit of {MOST_AT_ONCE:,}"
            )
        if self._total > self._most:
            raise LimitExceeded(f"its header takes more than {self._most:,} bytes, which is the limit")
        self._piece, self._at = self._read(start, length), start
        if len(self._piece) < stop - start:
            raise MoreNeeded


Data = bytes | View
"""The input of header parsers, which use slices and the length."""


def number(data: Data, at: int, length: int, order: Literal["big", "little"] = "big") -> int:
    """The unsigned integer of `length` bytes at `at`."""
    if at + length > len(data):
        raise MoreNeeded
    return int.from_bytes(data[at : at + length], order)


def block(data: Data, at: int, length: int, what: str) -> bytes:
    """A block of metadata; empty if the file does not contain all of it.

    Raises:
        LimitExceeded: the block is larger than `MOST_AT_ONCE`.
    """
    if length > MOST_AT_ONCE and at + length <= len(data):
        raise LimitExceeded(
            f"its {what} takes {length:,} bytes, over the limit of {MOST_AT_ONCE:,} (--metadata strip)"
        )
    return data[at : at + length] if at + length <= len(data) else b""


class Bits:
    """Reads numbers of a few bits, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> int:
        first, self._at = self._at, self._at + count
        value = number(self._data, first // 8, -(-self._at // 8) - first // 8)
        return value >> -self._at % 8 & (1 << count) - 1
