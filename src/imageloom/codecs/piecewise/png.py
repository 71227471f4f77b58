"""PNG by strips: filtered and deflated each alone, and joined to one zlib stream.

A strip's deflate blocks end with a sync flush, at a byte's border, and refer to nothing before the strip. The
setting is that of the plain encoder: differences to the pixel on the left, zlib's level 1 for run lengths
alone. PNGs are read in order, through libvips.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from imageloom.codecs.piecewise import ordered
from imageloom.codecs.piecewise.pieces import Pieces
from imageloom.model import Pixels

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""By channels (PNG specification, 11.2.1)."""
_STREAM = b"\x78\x01"
"""A zlib header: deflate, a window of 32 KiB, fastest (RFC 1950, 2.2)."""
_LAST_BLOCK = b"\x03\x00"
"""An empty block that says that it is the last (RFC 1951, 3.2.3 and 3.2.6)."""
_SUB = 1
_ADLER = 65521
_STRIP = 1 << 21
"""Pixels of a strip, about."""


class Encoder(ordered.FileEncoder, frozen=True):
    """PNG of 8 or 16 bits."""

    chunks: bytes = b""
    """Whole chunks that go behind the header: a profile, EXIF, XMP."""

    @property
    def pieces(self) -> Pieces:
        return Pieces(self.frame, self.frame.width, max(1, _STRIP // self.frame.width))

    def compress(self, pixels: Pixels) -> bytes:
        """The Adler-32 of a strip's filtered rows, in four bytes, and its chunk."""
        filtered = _filtered(pixels)
        stream = zlib.compressobj(1, zlib.DEFLATED, -15, 8, zlib.Z_RLE)
        body = stream.compress(filtered.data) + stream.flush(zlib.Z_SYNC_FLUSH)
        return zlib.adler32(filtered.data).to_bytes(4) + _chunk(b"IDAT", body)

    def writer(self, file: BinaryIO, path: Path | None = None) -> ordered.Ordered:
        return _Writer(self, file, path)


class _Writer(ordered.Ordered):
    def __init__(self, encoder: Encoder, file: BinaryIO, path: Path | None) -> None:
        self._encoder = encoder
        self._sum = zlib.adler32(b"")
        super().__init__(len(encoder.pieces), file, path)

    def _begin(self) -> None:
        frame = self._encoder.frame
        bits = 16 if frame.dtype == "uint16" else 8
        kind = bytes((bits, _COLOUR_TYPES[frame.channels], 0, 0, 0))
        header = _chunk(b"IHDR", frame.width.to_bytes(4) + frame.height.to_bytes(4) + kind)
        self._file.write(_SIGNATURE + header + self._encoder.chunks + _chunk(b"IDAT", _STREAM))

    def _append(self, data: bytes) -> None:
        frame = self._encoder.frame
        _, top, _, bottom = self._encoder.pieces.box(self._next)
        length = (bottom - top) * (1 + frame.bytes // frame.height)
        self._sum = joined_adler32(self._sum, int.from_bytes(data[:4]), length)
        self._file.write(memoryview(data)[4:])

    def _finish(self) -> None:
        self._file.write(_chunk(b"IDAT", _LAST_BLOCK + self._sum.to_bytes(4)) + _chunk(b"IEND", b""))


def joined_adler32(first: int, second: int, length: int) -> int:
    """The Adler-32 of two texts one after the other, from those of each; `length` is the second's.

    RFC 1950, 9: the low half is one more than the sum of the bytes, the high half the sum of the low halves.
    """
    low = (first & 0xFFFF) + (second & 0xFFFF) - 1
    high = (first >> 16) + (second >> 16) + length * ((first & 0xFFFF) - 1)
    return high % _ADLER << 16 | low % _ADLER


def _filtered(pixels: Pixels) -> Pixels:
    """Rows of bytes as differences to the pixel on the left, each behind the number of this filter."""
    height = len(pixels)
    samples = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">"))
    rows = samples.view(np.uint8).reshape(height, -1)
    step = rows.shape[1] // pixels.shape[1]
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = _SUB
    filtered[:, 1 : 1 + step] = rows[:, :step]
    np.subtract(rows[:, step:], rows[:, :-step], out=filtered[:, 1 + step :])
    return filtered


def _chunk(name: bytes, body: bytes) -> bytes:
    return b"".join((len(body).to_bytes(4), name, body, zlib.crc32(body, zlib.crc32(name)).to_bytes(4)))
