"""Readers of large images piece by piece. Each file format has its module.

A reader reads any region, or only strips in order if the format requires it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol

from imageloom.codecs import by_name
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.piecewise.pieces import Pieces, check_box
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Frame, Pixels
from imageloom.tiling.readers import jpeg, png, tiff, vips, zarr

IN_ORDER = ("jpeg", "png", "tiff")
"""Formats that libvips decodes in strips in order, with the same pixels as imageloom's codecs."""


class Reader(Protocol):
    """An open file, which is never in memory as a whole. Each process opens it once."""

    frame: Frame
    pieces: Pieces
    """Width and height of the file's pieces. Boxes along their borders are the cheapest to read."""
    random: bool
    """Whether any box can be read, by several threads at the same time. Otherwise boxes must be full rows, from
    top to bottom without gaps."""

    def read(self, x0: int, y0: int, x1: int, y1: int) -> Pixels:
        """The pixels of a box.

        Raises:
            CorruptImage: the pixels are damaged.
        """

    def close(self) -> None:
        """Close the file."""


def open_reader(path: Path, format: str, frame: Frame, damage: DamageLog | None = None) -> Reader:
    """Open a reader of a file, with random access if possible. It raises the same errors as `codecs.decode`.

    Args:
        format: name of the file's format.
        frame: frame from its header.
        damage: where damage is reported; None accepts what "warn" accepts, without a report.

    Raises:
        CorruptImage, UnsupportedImage: it cannot be read in pieces.
        UnreadableItem: it cannot be opened.
        MissingExtra: the library for it is not installed.
    """
    try:
        reader = _open(path, format, frame, damage or DamageLog())
    except Exception as error:
        raise by_name(error, f"the {format} file cannot be read in pieces") from None
    if reader.frame != frame:
        reader.close()
        raise CorruptImage(f"it decodes to {reader.frame}, where its header says {frame}")
    return _Checked(reader)


def _open(path: Path, format: str, frame: Frame, damage: DamageLog) -> Reader:
    if format == "png":
        return png.Reader(path, damage)
    if format == "zarr":
        return zarr.Reader(path)
    with contextlib.suppress(UnsupportedImage):
        if format == "tiff":
            return tiff.Reader(path)
        if format == "jpeg":
            return jpeg.Reader(path, damage)
    if format not in IN_ORDER or (format == "tiff" and frame.channels in (2, 4)):
        # libvips has no reader, or decodes other pixels: it ignores that colours are multiplied by their alpha.
        raise UnsupportedImage(f"this kind of {format} cannot be read in pieces")
    return vips.Reader(path, format, frame)


class _Checked:
    """A reader that checks requests and converts all errors."""

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
