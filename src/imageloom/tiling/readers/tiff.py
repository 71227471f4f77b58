"""TIFF and BigTIFF: reads any tiles and strips. `tiffparts` finds and unpacks them, like those of whole files."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np

from imageloom.codecs.bits import MoreNeeded
from imageloom.codecs.piecewise.pieces import Pieces, check_box
from imageloom.codecs.tifflayout import CONVERTED, Layout, as_pixels, converter_of, layout_of
from imageloom.codecs.tiffparts import Parts, library
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Pixels
from imageloom.tiling.readers.files import RandomFile

_MOST_PIECES = 1 << 20
_LARGEST_PIECE = 64 << 20
_CACHE, _SMALL_CACHE = 64 << 20, 16 << 20
"""Size of the cache of unpacked pieces in bytes: the second value is used if two rows of pieces do not fit into
the first."""


class LargePieces(UnsupportedImage):
    """Pieces are too large for this reader; libvips decodes them row by row, to the same pixels."""


class Reader:
    """Regions of the image in the first directory.

    It is thread-safe. About `cache` bytes of unpacked pieces are cached, because neighbouring boxes with halos use
    the same pieces.

    Args:
        cache: size in bytes; 0 for the size of two rows of pieces, which consecutive strips share, or less.

    Raises:
        CorruptImage: the directory is invalid, or pieces are missing or incomplete.
        UnsupportedImage: the kind of pixels is not supported, there are several pages, or pieces are too large.
        LargePieces: pieces are too large, and libvips can read them.
        UnreadableItem: the file cannot be read.
        MissingExtra: tifffile or imagecodecs is not installed.
    """

    random = True

    def __init__(self, path: Path, cache: int = 0) -> None:
        library()
        self._file = RandomFile(path)
        try:
            view = self._file.view()
            layout = layout_of(view)
            self._parts = layout.parts(view, _MOST_PIECES)
            _check_size(layout, self._parts)
            self._convert = converter_of(view, layout)
        except MoreNeeded:
            self._file.close()
            raise CorruptImage("the TIFF is cut off within its directory") from None
        except BaseException:
            self._file.close()
            raise
        self._layout, self.frame = layout, layout.frame
        self.pieces = Pieces(self.frame, self._parts.width, self._parts.height)
        rows = 2 * self.pieces.height * self.frame.bytes // self.frame.height
        self._cache = cache or (_CACHE if rows <= _CACHE else _SMALL_CACHE)
        self._held: OrderedDict[int, Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, x0: int, y0: int, x1: int, y1: int) -> Pixels:
        """The pixels of a box.

        Raises:
            CorruptImage: a piece of it is damaged.
        """
        check_box(self.frame, x0, y0, x1, y1)
        shape = (y1 - y0, x1 - x0, self.frame.channels)[: 2 if self.frame.channels == 1 else 3]
        pixels: Pixels = np.empty(shape, self.frame.dtype)
        for index in self.pieces.touching(x0, y0, x1, y1):
            left, top, right, bottom = self.pieces.box(index)
            a, b, c, d = max(left, x0), max(top, y0), min(right, x1), min(bottom, y1)
            piece = self._piece(index)
            pixels[b - y0 : d - y0, a - x0 : c - x0] = piece[b - top : d - top, a - left : c - left]
        return pixels

    def close(self) -> None:
        self._file.close()

    def _piece(self, index: int) -> Pixels:
        with self._lock:
            if index in self._held:
                self._held.move_to_end(index)
                return self._held[index]
        piece = self._decoded(index)
        with self._lock:
            self._held[index] = piece
            while len(self._held) * piece.nbytes > self._cache and len(self._held) > 1:
                self._held.popitem(last=False)
        return piece

    def _decoded(self, index: int) -> Pixels:
        samples = self._parts.samples(index, self._file.read)
        left, top, right, bottom = self.pieces.box(index)
        samples = samples[: bottom - top, : right - left]
        if samples.shape != (bottom - top, right - left, self._layout.samples):
            raise CorruptImage(f"{self._parts.name(index)} is damaged: it does not hold its pixels")
        return as_pixels(samples, self._layout, self._convert)


def _check_size(layout: Layout, parts: Parts) -> None:
    """Refuse pieces that are too large for the memory of a worker, and colours that are converted."""
    if layout.colours in CONVERTED:
        raise UnsupportedImage(f"TIFF of {CONVERTED[layout.colours]} is converted as a whole")
    if parts.bytes * parts.planes > _LARGEST_PIECE:
        refused = LargePieces if layout.is_plain and parts.planes == 1 else UnsupportedImage
        raise refused(f"TIFF of pieces of {parts.width}x{parts.height} pixels is not read in regions")
