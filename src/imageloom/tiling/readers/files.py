"""Files with random access for several threads."""

from __future__ import annotations

import mmap
import os
import weakref
from pathlib import Path

from imageloom.codecs.bits import View
from imageloom.errors import CorruptImage, UnreadableItem
from imageloom.model import Frame

_BEHIND = 64 << 20
"""Maximum size of other data in a file in addition to its pixels, in bytes, such as a short video."""
_MOST_CODED = 16
"""Maximum size of the file in proportion to the size of its pixels."""


class RandomFile:
    """An open file without a shared position. It is closed with its last reference.

    Raises:
        UnreadableItem: the operating system reports an error.
        CorruptImage: the file ends before the requested bytes.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UnreadableItem(f"cannot be read: {error.strerror}") from error
        self.size = os.fstat(self._file).st_size
        self._closing = weakref.finalize(self, os.close, self._file)

    def read(self, at: int, length: int) -> bytes:
        """Read `length` bytes at `at`. No memory is allocated if the file is too short."""
        if at + length > self.size:
            raise CorruptImage("the file is cut off")
        data = bytearray(length)
        self.read_into(memoryview(data), at)
        return bytes(data)

    def read_into(self, view: memoryview, at: int) -> None:
        while len(view):
            try:
                count = os.preadv(self._file, [view], at)
            except OSError as error:
                raise UnreadableItem(f"cannot be read: {error.strerror}") from error
            if not count:
                raise CorruptImage("the file is cut off")
            view, at = view[count:], at + count

    def check_size(self, frame: Frame) -> None:
        """Refuse a file with too much other data, because all of it would be searched.

        Raises:
            CorruptImage: the file is too large.
        """
        if self.size > (most := _BEHIND + _MOST_CODED * frame.bytes):
            raise CorruptImage(f"the file has {self.size:,} bytes, over the limit of {most:,} for {frame}")

    def view(self) -> View:
        """The file for the parser of a header."""
        return View(self.read, self.size)

    def mapped(self) -> mmap.mmap:
        """Its bytes, mapped into memory."""
        return mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)

    def close(self) -> None:
        self._closing()
