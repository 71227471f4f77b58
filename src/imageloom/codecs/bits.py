"""Reading numbers out of headers, in memory or in a file that is read in bounded pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from imageloom.errors import LimitExceeded

MOST_READ = 64 << 20
"""Bytes that are read of one file for its header."""
MOST_AT_ONCE = 16 << 20
"""Bytes of one part of a header, or of one block of metadata."""
_PIECE, _LARGEST_PIECE = 16 << 10, 1 << 20


class MoreNeeded(Exception):
    """The header goes on behind the bytes that were given."""


class View:
    """The bytes of a file, to be looked at in slices: a header's parser goes anywhere, and little is read.

    A slice within the piece that was read last costs no reading. Pieces grow while they follow each other.

    Args:
        read: gives n bytes from a place on.
        size: of the file, in bytes.
        head: its first bytes, where they were read already.

    Raises:
        LimitExceeded: a slice is over `MOST_AT_ONCE`, or all pieces together are over `MOST_READ`.
        MoreNeeded: the file is shorter than its size.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int, head: bytes = b"") -> None:
        self._read = read
        self._size = size
        self._piece, self._at = head, 0
        self._step = _PIECE
        self._total = 0

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
        self._step = min(2 * self._step, _LARGEST_PIECE) if follows else _PIECE
        length = min(max(stop - start, self._step), self._size - start)
        self._total += length
        if stop - start > MOST_AT_ONCE:
            raise LimitExceeded(
                f"a part of its header takes {stop - start:,} bytes, over the limit of {MOST_AT_ONCE:,}"
            )
        if self._total > MOST_READ:
            raise LimitExceeded(f"its header takes more than {MOST_READ:,} bytes, which is the limit")
        self._piece, self._at = self._read(start, length), start
        if len(self._piece) < stop - start:
            raise MoreNeeded


Data = bytes | View
"""What parsers of headers take: slices of it, and its length."""


def number(data: Data, at: int, length: int, order: Literal["big", "little"] = "big") -> int:
    """The unsigned integer of `length` bytes at `at`."""
    if at + length > len(data):
        raise MoreNeeded
    return int.from_bytes(data[at : at + length], order)


def block(data: bytes, at: int, length: int, what: str) -> bytes:
    """A block of metadata; empty where the file does not hold all of it.

    Raises:
        LimitExceeded: it takes more than `MOST_AT_ONCE`.
    """
    if length > MOST_AT_ONCE and at + length <= len(data):
        raise LimitExceeded(
            f"its {what} takes {length:,} bytes, over the limit of {MOST_AT_ONCE:,} (--metadata strip)"
        )
    return data[at : at + length] if at + length <= len(data) else b""
