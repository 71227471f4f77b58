"""Huge images read piece by piece, one file for each technology.

A reader gives any region, or strips in order where the format allows no more.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol

from imageloom.codecs import by_name
from imageloom.codecs.piecewise.pieces import Pieces, check_box
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Frame, Pixels
from imageloom.tiling.readers import jpeg, tiff, vips, zarr

IN_ORDER = ("jpeg", "png", "tiff")
"""Formats of which libvips gives strips in order, the same pixels as our codecs."""


class Reader(Protocol):
    """An open file, never held whole. Opened once by each process that reads it."""

    frame: Frame
    pieces: Pieces
    """How the file is cut: boxes along these borders are the cheapest."""
    random: bool
    """Any box within the image may be read, by several threads at once. Otherwise boxes are full rows, each
    beginning where the one before has ended."""

    def read(self, x0: int, y0: int, x1: int, y1: int) -> Pixels:
        """The pixels of a box.

        Raises:
            CorruptImage: they are damaged.
        """

    def close(self) -> None:
        """Let go of the file."""


def open_reader(path: Path, format: str, frame: Frame) -> Reader:
    """A reader of a file, random where the file allows it. What it raises is as that of `codecs.decode`.

    Args:
        format: the name of the file's format.
        frame: what its header says.

    Raises:
        CorruptImage, UnsupportedImage: it cannot be read in pieces.
        UnreadableItem: it cannot be opened.
        MissingExtra: the library for it is not installed.
    """
    try:
        reader = _open(path, format, frame)
    except Exception as error:
        raise by_name(error, f"the {format} file cannot be read in pieces") from None
    if reader.frame != frame:
        reader.close()
        raise CorruptImage(f"it decodes to {reader.frame}, where its header says {frame}")
    return _Checked(reader)


def _open(path: Path, format: str, frame: Frame) -> Reader:
    if format == "zarr":
        return zarr.Reader(path)
    with contextlib.suppress(UnsupportedImage):
        if format == "tiff":
            return tiff.Reader(path)
        if format == "jpeg":
            return jpeg.Reader(path)
    if format not in IN_ORDER or (format == "tiff" and frame.channels in (2, 4)):
        # libvips has no reader, or other pixels: of an alpha that colours are multiplied by it knows nothing.
        raise UnsupportedImage(f"such a {format} is not read in pieces")
    return vips.Reader(path, format, frame)


class _Checked:
    """A reader that is asked for what it has, and whose errors are all named."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.frame, self.pieces, self.random = reader.frame, reader.pieces, reader.random
        self.close = reader.close
        self._next = 0

    def read(self, x0: int, y0: int, x1: int, y1: int) -> Pixels:
        is_next = (x0, x1, y0) == (0, self.frame.width, self._next) and y0 < y1 <= self.frame.height
        if not self.random and not is_next:
            raise ValueError(f"the next rows of {self.frame} begin at {self._next}, not {x0},{y0},{x1},{y1}")
        check_box(self.frame, x0, y0, x1, y1)
        self._next = y1
        try:
            return self._reader.read(x0, y0, x1, y1)
        except Exception as error:
            raise by_name(error, f"the pixels from {x0},{y0} to {x1},{y1} cannot be decoded") from None
