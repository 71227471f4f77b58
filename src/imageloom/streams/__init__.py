"""Streams: huge images read and written piece by piece, one file for each technology.

A reader gives any region, or strips in order where the format allows no more. An encoder cuts an image into
pieces and compresses each alone, in whatever process; a writer joins the compressed pieces. The bytes of a
file depend on its pixels, its size and its encoder's options, and on nothing else.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol

from imageloom.errors import UnsupportedImage
from imageloom.model import Frame, Pixels
from imageloom.streams import jpeg, tiff, vips, zarr
from imageloom.streams.ordered import Encoder, Writer
from imageloom.streams.pieces import Pieces

__all__ = ["Encoder", "Pieces", "Reader", "Writer", "open_reader"]


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
    """A reader of a file, random where the file allows it.

    Args:
        format: the name of the file's format.
        frame: what its header says.

    Raises:
        CorruptImage, UnsupportedImage: it cannot be read in pieces.
        UnreadableItem: it cannot be opened.
        MissingExtra: the library for it is not installed.
    """
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
    return vips.Reader(path, frame)
