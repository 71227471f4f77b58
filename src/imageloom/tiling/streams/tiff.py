"""TIFF and BigTIFF: tiles and strips read anywhere, tiles written.

Pieces are found and unpacked as `codecs.tiffparts` does for whole files. Files are laid out here: pieces in their
order, then the directory.
"""

from __future__ import annotations

import importlib
import threading
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Literal

import numpy as np

from imageloom.codecs.bits import MoreNeeded
from imageloom.codecs.tags import SIZES
from imageloom.codecs.tiff import Layout, divided_by_alpha, layout_of
from imageloom.codecs.tiffparts import Parts, library
from imageloom.errors import CorruptImage, MissingExtra, UnsupportedImage
from imageloom.model import Pixels, Plain
from imageloom.tiling.streams import ordered
from imageloom.tiling.streams.files import RandomFile
from imageloom.tiling.streams.pieces import Pieces, check_box, filled

Compression = Literal["none", "deflate", "zstd", "jpeg"]
_CODES: dict[Compression, int] = {"none": 1, "jpeg": 7, "deflate": 8, "zstd": 50000}
_GRAY, _RGB, _YCBCR = 1, 2, 6
"""PhotometricInterpretation."""
_ASSOCIATED, _UNASSOCIATED = 1, 2
_FLOAT = 3
_SHORT, _LONG, _LONG8 = 3, 4, 16
_CLASSIC_END = (1 << 32) - (1 << 16)
"""Files that go on beyond have 64-bit offsets."""
_DHT, _SOS, _DQT, _APP0 = 0xC4, 0xDA, 0xDB, 0xE0
_MOST_PIECES = 1 << 20
_LARGEST_PIECE = 64 << 20
_CACHE, _SMALL_CACHE = 64 << 20, 16 << 20
"""Bytes of unpacked pieces that are kept; the second of them where the first would not hold two rows of pieces."""


@lru_cache(maxsize=1)
def _codecs() -> ModuleType:
    try:
        return importlib.import_module("imagecodecs")
    except ImportError:
        raise MissingExtra("TIFF in tiles", "tiles") from None


class Tag(Plain, frozen=True):
    """An entry of a directory. `values` are its bytes, little-endian."""

    code: int
    type: int
    values: bytes
    below: tuple[Tag, ...] = ()
    """Entries of a directory of its own that this one leads to, in place of values."""


class Encoder(ordered.FileEncoder, frozen=True):
    """Tiled TIFF, little-endian; a BigTIFF where the file gets larger than 4 GB.

    Whole numbers are stored as differences to the pixel on the left, as libvips does by default: a fifth
    smaller than without on photos, in the same time.
    """

    compression: Compression = "deflate"
    level: int = 6
    """Of deflate (1 to 12) and zstd (1 to 22)."""
    quality: int = 85
    """Of JPEG, which holds gray or RGB of 8 bits."""
    tile: int = 256
    """Pixels of a side, a multiple of 16."""
    tags: tuple[Tag, ...] = ()
    """Further ones for the directory: a profile, XMP, the resolution."""

    @property
    def pieces(self) -> Pieces:
        return Pieces(self.frame, self.tile, self.tile)

    def compress(self, pixels: Pixels) -> bytes:
        codecs = _codecs()
        tile = filled(pixels, self.tile, self.tile)
        if self.compression == "jpeg":
            return _without_tables(_jpeg(tile, self.quality))
        if self._differences:
            tile = codecs.delta_encode(tile, axis=1)
        raw = tile.astype(tile.dtype.newbyteorder("<"), copy=False)
        if self.compression == "none":
            return raw.tobytes()
        packed = codecs.deflate_encode if self.compression == "deflate" else codecs.zstd_encode
        data: bytes = packed(raw, self.level)
        return data

    def writer(self, file: BinaryIO, path: Path | None = None) -> ordered.Ordered:
        return _Writer(self, file, path)

    @property
    def _differences(self) -> bool:
        return self.compression in ("deflate", "zstd") and self.frame.dtype != "float32"

    def directory(self, offsets: list[int], sizes: list[int]) -> list[Tag]:
        """The entries that say what the file holds, sorted."""
        frame = self.frame
        ycc = self.compression == "jpeg" and frame.channels == 3
        bits = {"uint8": 8, "uint16": 16, "float32": 32}[frame.dtype]
        tags = [
            _tag(256, _LONG, frame.width),
            _tag(257, _LONG, frame.height),
            _tag(258, _SHORT, *[bits] * frame.channels),
            _tag(259, _SHORT, _CODES[self.compression]),
            _tag(262, _SHORT, _YCBCR if ycc else _RGB if frame.channels > 2 else _GRAY),
            _tag(274, _SHORT, 1),
            _tag(277, _SHORT, frame.channels),
            _tag(284, _SHORT, 1),
            _tag(322, _SHORT, self.tile),
            _tag(323, _SHORT, self.tile),
            _tag(324, _LONG8 if offsets[-1] >= _CLASSIC_END else _LONG, *offsets),
            _tag(325, _LONG, *sizes),
            _tag(339, _SHORT, *[_FLOAT if frame.dtype == "float32" else 1] * frame.channels),
            *self.tags,
        ]
        if self._differences:
            tags.append(_tag(317, _SHORT, 2))
        if frame.channels in (2, 4):
            tags.append(_tag(338, _SHORT, _UNASSOCIATED))
        if self.compression == "jpeg":
            tags.append(Tag(347, 7, _tables(frame.channels, self.quality)))
        if ycc:
            tags.append(_tag(530, _SHORT, 2, 2))
        return sorted(tags, key=lambda tag: tag.code)


class _Writer(ordered.Ordered):
    """The first 16 bytes are kept for the header, which a BigTIFF fills."""

    def __init__(self, encoder: Encoder, file: BinaryIO, path: Path | None) -> None:
        self._encoder = encoder
        self._offsets: list[int] = []
        self._sizes: list[int] = []
        self._end = 16
        super().__init__(len(encoder.pieces), file, path)

    def _begin(self) -> None:
        self._file.write(bytes(self._end))

    def _append(self, data: bytes) -> None:
        self._offsets.append(self._end)
        self._sizes.append(len(data))
        padded = len(data) + len(data) % 2
        self._file.write(data)
        self._file.write(bytes(padded - len(data)))
        self._end += padded

    def _finish(self) -> None:
        tags = self._encoder.directory(self._offsets, self._sizes)
        big = self._end + len(_laid_out(tags, self._end, big=True)) >= _CLASSIC_END
        self._file.write(_laid_out(tags, self._end, big))
        self._file.seek(0)
        if big:
            self._file.write(b"II+\0\x08\0\0\0" + self._end.to_bytes(8, "little"))
        else:
            self._file.write(b"II*\0" + self._end.to_bytes(4, "little"))


def _tag(code: int, type: int, *values: int) -> Tag:
    return Tag(code, type, b"".join(value.to_bytes(SIZES[type], "little") for value in values))


def _laid_out(tags: list[Tag], at: int, big: bool) -> bytes:
    """A directory at `at`, with the values that are too long for their entries behind it."""
    count, room = (8, 8) if big else (2, 4)
    behind = at + count + len(tags) * (4 + 2 * room) + room
    entries, values = [len(tags).to_bytes(count, "little")], b""
    for tag in tags:
        type, number = tag.type, len(tag.values) // SIZES[tag.type]
        held = tag.values.ljust(room, b"\0")
        if tag.below or len(held) > room:
            place = behind + len(values)
            held, more = place.to_bytes(room, "little"), tag.values
            if tag.below:
                type, number, more = _LONG8 if big else _LONG, 1, _laid_out(list(tag.below), place, big)
            values += more + bytes(len(more) % 2)
        head = tag.code.to_bytes(2, "little") + type.to_bytes(2, "little")
        entries.append(head + number.to_bytes(room, "little") + held)
    return b"".join((*entries, bytes(room), values))


def _jpeg(tile: Pixels, quality: int) -> bytes:
    """The tile as a file of its own, by the encoder that writes JPEG files."""
    gray = tile.ndim == 2
    data: bytes = importlib.import_module("simplejpeg").encode_jpeg(
        tile[:, :, None] if gray else tile,
        quality,
        colorspace="GRAY" if gray else "RGB",
        colorsubsampling="Gray" if gray else "420",
    )
    return data


_SHARED = (_DHT, _DQT)
"""Huffman and quantization tables: all tiles leave them to one tag (TIFF technical note 2)."""


def _split(data: bytes) -> tuple[bytes, bytes]:
    """The tables of a JPEG, and the rest of it without its JFIF header."""
    tables, rest, at = b"", b"", 2
    while True:
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker in _SHARED:
            tables += data[at:end]
        elif marker == _SOS:
            return tables, rest + data[at:]
        elif marker != _APP0:
            rest += data[at:end]
        at = end


def _without_tables(data: bytes) -> bytes:
    return b"\xff\xd8" + _split(data)[1]


@lru_cache(maxsize=8)
def _tables(channels: int, quality: int) -> bytes:
    sample = np.zeros((16, 16, 3) if channels == 3 else (16, 16), np.uint8)
    return b"\xff\xd8" + _split(_jpeg(sample, quality))[0] + b"\xff\xd9"


class Reader:
    """Regions of the first directory's image, for gray and RGB with and without alpha.

    Threads may read at once. The pieces last unpacked are kept, about `cache` bytes of them: neighbouring boxes
    with halos meet in the same ones.

    Args:
        cache: by default what two rows of pieces take, which strips that follow each other meet in, or little.

    Raises:
        CorruptImage: the directory makes no sense, or pieces are missing or not all in the file.
        UnsupportedImage: pixels of another kind, several pages, or pieces too large to be held.
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
        self._is_associated = layout.extra == _ASSOCIATED and self.frame.channels in (2, 4)
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
    """Refuse an image of a kind that is not read here."""
    frame = layout.frame
    if layout.colours not in (_GRAY, _RGB, _YCBCR):
        raise UnsupportedImage(f"TIFF of colour kind {layout.colours} is not read in regions")
    if layout.bits < 8:
        raise UnsupportedImage(f"TIFF of {layout.bits} bits is not read in regions")
    if parts.planes > 1:
        raise UnsupportedImage("TIFF of separate planes is not read in regions")
    if frame.channels in (2, 4) and layout.extra not in (0, _ASSOCIATED, _UNASSOCIATED):
        raise UnsupportedImage("TIFF of further channels is not read in regions")
    if parts.bytes > _LARGEST_PIECE:
        raise UnsupportedImage(
            f"TIFF of pieces of {parts.width}x{parts.height} pixels is not read in regions"
        )
