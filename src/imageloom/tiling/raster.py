"""Rasters: scratch pixels of one large image. Its tiles read and write them by position.

A raster in a file is not mapped into memory, so a process uses memory only for the pixels that it reads or writes.
The file is sparse: it uses disk space only for rows that were written and not yet forgotten. If all workers share
memory and only a few rows are needed together, the rows are held in memory instead.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from functools import lru_cache
from typing import Protocol
from weakref import WeakValueDictionary

import numpy as np

from imageloom.errors import UnwritableOutput, unwritable
from imageloom.model import Box, Frame, Pixels
from imageloom.system import folders

_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h
_HELD = "memory:"
_held: WeakValueDictionary[str, HeldRaster] = WeakValueDictionary()


class Raster(Protocol):
    """The pixels of a frame, or of the rows that are not yet forgotten."""

    path: str
    """Its path, for `open_raster`."""
    frame: Frame

    def read(self, box: Box) -> Pixels:
        """The pixels of a box."""

    def write(self, box: Box, pixels: Pixels) -> None:
        """Put the pixels of a box.

        Raises:
            UnwritableOutput: there is no room for them.
        """

    def forget(self, y0: int, y1: int) -> None:
        """Free the space of rows that are no longer needed, as far as possible."""

    def close(self) -> None:
        """Close the raster in this process."""

    def remove(self) -> None:
        """Remove the raster and free its space."""


def open_raster(path: str, frame: Frame, roots: tuple[str, ...] = ()) -> Raster:
    """Open an existing raster.

    Args:
        roots: folders that must contain it; empty for no limit.

    Raises:
        UnwritableOutput: it does not exist, or cannot be opened.
    """
    if not path.startswith(_HELD):
        return FileRaster(path, frame, roots=roots)
    if (held := _held.get(path)) is None:
        raise UnwritableOutput(f"cannot open scratch {path}: it is not in the memory of this process")
    return held


class HeldRaster:
    """Full rows in the memory of this process, written in strips from top to bottom.

    A strip is stored without a copy until all of its rows are forgotten.
    """

    def __init__(self, path: str, frame: Frame) -> None:
        self.path = _HELD + path
        self.frame = frame
        self._strips: tuple[tuple[int, Pixels], ...] = ()
        self._turn = threading.Lock()
        _held[self.path] = self

    def read(self, box: Box) -> Pixels:
        """A copy of the pixels of a box.

        Raises:
            UnwritableOutput: some of its rows are missing.
        """
        pixels = _empty(self.frame, box)
        missing = box.height
        for y, strip in self._strips:
            top, bottom = max(y, box.y0), min(y + len(strip), box.y1)
            if top < bottom:
                pixels[top - box.y0 : bottom - box.y0] = strip[top - y : bottom - y, box.x0 : box.x1]
                missing -= bottom - top
        if missing:
            raise UnwritableOutput(f"scratch {self.path} lacks {missing} rows that are read")
        return pixels

    def write(self, box: Box, pixels: Pixels) -> None:
        with self._turn:
            self._strips += ((box.y0, pixels),)

    def forget(self, y0: int, y1: int) -> None:
        with self._turn:
            self._strips = tuple((y, strip) for y, strip in self._strips if not y0 <= y <= y1 - len(strip))

    def close(self) -> None:
        """Does nothing: there is no file."""

    def remove(self) -> None:
        with self._turn:
            self._strips = ()


def _empty(frame: Frame, box: Box) -> Pixels:
    shape = (box.height, box.width, frame.channels)[: 2 if frame.channels == 1 else 3]
    return np.empty(shape, frame.dtype)


class FileRaster:
    """The pixels of a frame in a file, row by row.

    Args:
        new: create the file. Otherwise it must exist, so that a late part does not recreate a removed file.
        roots: as in `open_raster`.

    Raises:
        UnwritableOutput: the file cannot be created or opened.
    """

    def __init__(self, path: str, frame: Frame, new: bool = False, roots: tuple[str, ...] = ()) -> None:
        self.path = path
        self.frame = frame
        self._pixel = frame.bytes // frame.pixels
        self._row = self._pixel * frame.width
        try:
            self._file = folders.open_file(path, os.O_RDWR | (folders.NEW if new else 0), 0o600, roots)
        except OSError as error:
            raise unwritable(f"cannot open scratch {path}", error) from None

    def read(self, box: Box) -> Pixels:
        """The pixels of a box."""
        pixels = _empty(self.frame, box)
        rows = pixels.reshape(-1).view(np.uint8).reshape(box.height, -1)
        for at, part in self._runs(box, rows):
            view = memoryview(part.data)
            while len(view):
                count = os.preadv(self._file, [view], at)
                if not count:
                    raise UnwritableOutput(f"scratch {self.path} is shorter than its pixels")
                view, at = view[count:], at + count
        return pixels

    def write(self, box: Box, pixels: Pixels) -> None:
        """Put the pixels of a box.

        Raises:
            UnwritableOutput: there is no room for them.
        """
        rows = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8).reshape(box.height, -1)
        try:
            for at, part in self._runs(box, rows):
                view = memoryview(part.data)
                while len(view):
                    count = os.pwrite(self._file, view, at)
                    view, at = view[count:], at + count
        except OSError as error:
            raise unwritable(f"cannot write scratch {self.path}", error) from None

    def _runs(self, box: Box, rows: Pixels) -> list[tuple[int, Pixels]]:
        """The position of each run of bytes in the file: one run for full rows, otherwise one for each row."""
        start = box.y0 * self._row + box.x0 * self._pixel
        if box.width == self.frame.width:
            return [(start, rows.reshape(-1))]
        return [(start + y * self._row, row) for y, row in enumerate(rows)]

    def forget(self, y0: int, y1: int) -> None:
        """Free the space of rows that are no longer needed, if the file system supports it."""
        if sys.platform == "linux" and y1 > y0:
            at, length = ctypes.c_int64(y0 * self._row), ctypes.c_int64((y1 - y0) * self._row)
            _libc().fallocate(self._file, _KEEP_SIZE | _PUNCH_HOLE, at, length)

    def close(self) -> None:
        os.close(self._file)

    def remove(self) -> None:
        """Close the file and delete it."""
        self.close()
        os.unlink(self.path)


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
