"""TIFF and BigTIFF: reads any tiles and strips. `tiffparts` finds and unpacks them, like those of whole files."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np

from imageloom.codecs.bits import MoreNeeded
from imageloom.codecs.piecewise.pieces import Pieces, check_box
from imageloom.codecs.piecewise.tiff import ASSOCIATED, GRAY, RGB, UNASSOCIATED, YCBCR
from imageloom.codecs.tiff import Layout, divided_by_alpha, layout_of
from imageloom.codecs.tiffparts import Parts, library
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Pixels
from imageloom.tiling.readers.files import RandomFile

_MOST_PIECES = 1 << 20
_LARGEST_PIECE = 64 << 20
_CACHE, _SMALL_CACHE = 64 << 20, 16 << 20
"""Size of the cache of unpacked pieces in bytes: the second value is used if two rows of pieces do not fit into
the first."""


class Reader:
    """Regions of the image in the first directory: gray and RGB, with and without alpha.

    It is thread-safe. About `cache` bytes of unpacked pieces are cached, because neighbouring boxes with halos use
    the same pieces.

    Args:
        cache: size in bytes; 0 for the size of two rows of pieces, which consecutive strips share, or less.

    Raises:
        CorruptImage: the directory is invalid, or pieces are missing or incomplete.
        UnsupportedImage: the kind of pixels is not supported, there are several pages, or pieces are too large.
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
            _check_kind(layout, self._parts)
        except MoreNeeded:
            self._file.close()
            raise CorruptImage("the TIFF is cut off within its directory") from None
        except BaseException:
            self._file.close()
            raise
        self.frame = layout.frame
        self.pieces = Pieces(self.frame, self._parts.width, self._parts.height)
        self._is_associated = layout.extra == ASSOCIATED and self.frame.channels in (2, 4)
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
        samples = self._parts.unpacked(index, self._file.read(*self._parts.place(index))).pixels
        left, top, right, bottom = self.pieces.box(index)
        piece = samples if self.frame.channels > 1 else samples[:, :, 0]
        if piece.shape[0] < bottom - top or piece.shape[1] < right - left or piece.dtype != self.frame.dtype:
            raise CorruptImage(f"{self._parts.name(index)} is damaged: it does not hold its pixels")
        return divided_by_alpha(piece) if self._is_associated else piece


def _check_kind(layout: Layout, parts: Parts) -> None:
    """Refuse an image of an unsupported kind."""
    frame = layout.frame
    if layout.colours not in (GRAY, RGB, YCBCR):
        raise UnsupportedImage(f"TIFF of colour kind {layout.colours} is not read in regions")
    if layout.bits < 8:
        raise UnsupportedImage(f"TIFF of {layout.bits} bits is not read in regions")
    if parts.planes > 1:
        raise UnsupportedImage("TIFF of separate planes is not read in regions")
    if frame.channels in (2, 4) and layout.extra not in (0, ASSOCIATED, UNASSOCIATED):
        raise UnsupportedImage("TIFF of further channels is not read in regions")
    if parts.bytes > _LARGEST_PIECE:
        raise UnsupportedImage(
            f"TIFF of pieces of {parts.width}x{parts.height} pixels is not read in regions"
        )
