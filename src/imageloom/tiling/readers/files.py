"""Files that several threads read at once, each where it likes."""

from __future__ import annotations

import mmap
import os
import weakref
from pathlib import Path

from imageloom.codecs.bits import View
from imageloom.errors import CorruptImage, UnreadableItem
from imageloom.model import Frame

_BEHIND = 64 << 20
"""Bytes that a file may have beside its pixels: a short video, for one."""
_MOST_CODED = 16
"""Bytes of the file for each of its pixels' bytes."""


class RandomFile:
    """An open file without a position of its own; it is closed with the last reference to it.

    Raises:
        UnreadableItem: the operating system says so.
        CorruptImage: the file ends before the bytes that are asked for.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UnreadableItem(f"cannot be read: {error.strerror}") from error
        self.size = os.fstat(self._file).st_size
        self._closing = weakref.finalize(self, os.close, self._file)

    def read(self, at: int, length: int) -> bytes:
        """`length` bytes at `at`; no memory is asked for where the file does not hold them."""
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
        """Refuse a file with much more behind its pixels than any has, which would all be searched.

        Raises:
            CorruptImage: it has.
        """
        if self.size > (most := _BEHIND + _MOST_CODED * frame.bytes):
            raise CorruptImage(f"the file has {self.size:,} bytes, over the limit of {most:,} for {frame}")

    def view(self) -> View:
        """The file as the parser of a header looks at it."""
        return View(self.read, self.size)

    def mapped(self) -> mmap.mmap:
        """Its bytes, read as they are looked at."""
        return mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)

    def close(self) -> None:
        self._closing()
