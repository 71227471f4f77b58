"""Reads strips in order with libvips, for files whose pixels depend on all pixels before them.

libvips decodes row by row if the format's library can (JPEG, PNG, stripped TIFF), and keeps a few rows in memory.
A progressive or interlaced file is kept in memory as a whole.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from imageloom.codecs.bits import MoreNeeded
from imageloom.codecs.jpeg import check_whole
from imageloom.codecs.piecewise.pieces import Pieces
from imageloom.codecs.repair import check_regular
from imageloom.codecs.segments import check_scans
from imageloom.codecs.tiff import CONVERTED, layout_of
from imageloom.errors import CorruptImage, MissingExtra, UnsupportedImage
from imageloom.model import Frame, Pixels
from imageloom.tiling.readers.files import RandomFile

_DTYPES = {"uchar": "uint8", "ushort": "uint16", "float": "float32"}
_STRIP = 1 << 21
"""Approximate number of pixels of a strip."""
_ROWS = 16
"""Rows that are fetched together: enough for a row of MCUs, and small enough for the processor's cache."""


@lru_cache(maxsize=1)
def library() -> ModuleType:
    """pyvips, configured.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        pyvips = importlib.import_module("pyvips")
    except ImportError:
        raise MissingExtra("reading large images strip by strip", "tiles") from None
    # Files are opened only once, and the cache of libvips would keep them open.
    pyvips.cache_set_max(0)
    return pyvips


class Strips:
    """Reads full rows from top to bottom, each once. It is not thread-safe.

    Args:
        source: a pyvips.Source of the file.
        frame: frame from its header.

    Raises:
        CorruptImage: the file cannot be decoded, or its frame differs from its header.
    """

    random = False

    def __init__(self, source: Any, frame: Frame) -> None:
        self.frame = frame
        self.pieces = Pieces(frame, frame.width, max(1, _STRIP // frame.width))
        pyvips = library()
        try:
            image = pyvips.Image.new_from_source(source, "", access="sequential", fail_on="warning")
            self._region = pyvips.Region.new(image)
            self._source = source  # libvips does not keep its functions alive
        except pyvips.Error as error:
            raise CorruptImage(f"cannot be decoded: {_said(error)}") from None
        if image.interpretation == "cmyk":
            raise UnsupportedImage("CMYK is converted as a whole")
        dtype = _DTYPES.get(image.format)
        if (image.width, image.height, image.bands, dtype) != (
            frame.width,
            frame.height,
            frame.channels,
            frame.dtype,
        ):
            found = f"{image.width}x{image.height} of {image.bands} channels {dtype or image.format}"
            raise CorruptImage(f"decodes to {found}, not {frame} as its header says")

    def read(self, x0: int, y0: int, x1: int, y1: int) -> Pixels:
        """The next rows.

        Raises:
            CorruptImage: the rows are damaged.
        """
        frame = self.frame
        shape = (y1 - y0, frame.width, frame.channels)[: 2 if frame.channels == 1 else 3]
        rows: Pixels = np.empty(shape, frame.dtype)
        flat = rows.reshape(-1).view(np.uint8)
        row = frame.bytes // frame.height
        try:
            for y in range(y0, y1, _ROWS):
                bottom = min(y + _ROWS, y1)
                fetched = self._region.fetch(0, y, frame.width, bottom - y)
                flat[(y - y0) * row : (bottom - y0) * row] = np.frombuffer(fetched, np.uint8)
        except library().Error as error:
            raise CorruptImage(f"rows {y} to {bottom - 1} cannot be decoded: {_said(error)}") from None
        return rows

    def close(self) -> None:
        self._region = None


class Reader(Strips):
    """Reads a JPEG or TIFF.

    Args:
        format: name of the file's format.
        frame: frame from its header.

    Raises:
        UnreadableItem: the file cannot be opened.
        CorruptImage: it cannot be decoded, or its frame differs from its header.
        MissingExtra: pyvips is not installed.
    """

    def __init__(self, path: Path, format: str, frame: Frame) -> None:
        sources = library().Source
        _check(path, format, frame)
        # A source, not a name: libvips interprets brackets at the end of a name as options.
        super().__init__(sources.new_from_file(str(path)), frame)
        self._path, self._format = path, format

    def read(self, x0: int, y0: int, x1: int, y1: int) -> Pixels:
        rows = super().read(x0, y0, x1, y1)
        if y1 == self.frame.height and self._format == "jpeg":
            self._check_end()
        return rows

    def _check_end(self) -> None:
        """libvips checks for damage before it decodes rows, but not after the last rows."""
        file = RandomFile(self._path)
        try:
            with file.mapped() as data:
                check_whole(data, self.frame)
        finally:
            file.close()


def _check(path: Path, format: str, frame: Frame) -> None:
    """Refuse a file that would cost libvips too much time or memory."""
    file = RandomFile(path)
    try:
        if format == "jpeg":
            file.check_size(frame)
            with file.mapped() as data:
                check_scans(data)
                check_regular(data)
        elif format == "tiff":
            view = file.view()
            layout = layout_of(view)
            if layout.colours in CONVERTED:
                raise UnsupportedImage(f"{CONVERTED[layout.colours]} is converted as a whole")
            layout.parts(view)
    except MoreNeeded:
        raise CorruptImage("the file is cut off within its header") from None
    finally:
        file.close()


def _said(error: Exception) -> str:
    """The error message of libvips, on one line."""
    return "; ".join(dict.fromkeys(str(error).strip().splitlines()))
