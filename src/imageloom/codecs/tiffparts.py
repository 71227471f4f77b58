"""The strips and tiles of a TIFF: their positions, and how to unpack each of them. Used by both readers of TIFF.

tifffile does not read the file. It gets a directory made here, with the checked values of the tags that describe
how pixels are stored. imagecodecs gets one part at a time, and a buffer of the maximum size of that part.
"""

from __future__ import annotations

import importlib
import io
import logging
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np

from imageloom.codecs import segments
from imageloom.codecs.bits import Data, MoreNeeded, number
from imageloom.codecs.tags import SIZES, Entry, Order, Tree, laid_out, longs, numbers
from imageloom.errors import CorruptImage, MissingExtra, UnsupportedImage
from imageloom.model import Pixels

WIDTH, HEIGHT, BITS, PACKING, COLOURS, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIPS, SAMPLES, ROWS, STRIP_BYTES, PLANES, PREDICTOR = 273, 277, 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES = 322, 323, 324, 325
EXTRA, SAMPLE_FORMAT, _TABLES, _SUBSAMPLING = 338, 339, 347, 530
DEPTHS = (32997, 32998)
"""Number of pictures in a volume, and in a tile of it."""
_KEPT = (
    WIDTH,
    HEIGHT,
    BITS,
    PACKING,
    COLOURS,
    FILL_ORDER,
    SAMPLES,
    PREDICTOR,
    EXTRA,
    SAMPLE_FORMAT,
    _SUBSAMPLING,
)
_SEVERAL = (BITS, EXTRA, SAMPLE_FORMAT, _SUBSAMPLING)
JPEG = 7
_NOT_PACKED = 1
_BOUNDED = {8: "zlib", 32946: "zlib", 32773: "packbits", 50000: "zstd"}
"""Packings whose library refuses more bytes than the part has pixels for, and its name for them."""
_INTEGERS = (1, 3, 4, 16)
"""Types of tags: BYTE, SHORT, LONG, LONG8."""
IndexArray = np.ndarray[Any, np.dtype[Any]]
MOST_SAMPLES = 64
"""Maximum number of channels, and of values of a tag with one value per channel."""
_CUT = 1 << 20
"""An uncompressed strip that is larger than this, in bytes, is read in parts of this size."""
MOST_PARTS = 1 << 16
"""Maximum number of strips or tiles in a file that is decoded as a whole."""
_OVERHANG = 1 << 22
"""Maximum number of pixels of a part outside the image."""
_COMMON = 1 << 16
"""Maximum size of a compressed part in bytes, in addition to twice its pixels."""
_SHARED = 64 << 20
"""Maximum total size of overlapping parts in bytes, or 8 times the file's size."""
_IN_TABLES = (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0))
"""Segments that are allowed in a TIFF's JPEG tables: no frame, no scan."""


@lru_cache(maxsize=1)
def library() -> ModuleType:
    try:
        importlib.import_module("imagecodecs")
        tifffile = importlib.import_module("tifffile")
    except ImportError:
        raise MissingExtra("reading TIFF", "tiff") from None
    # Its warnings about a file are either also errors, or not important.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    return tifffile


def integers(
    data: Data, entries: dict[int, Entry], order: Order, tag: int, default: int | None = None
) -> tuple[int, ...]:
    """The values of a tag with a few whole numbers.

    Raises:
        CorruptImage: the tag is missing, has another type, or too many values.
        MoreNeeded: the data ends too early.
    """
    entry = entries.get(tag)
    if entry is None or not entry.length:
        if default is None:
            raise CorruptImage(f"the TIFF lacks its tag {tag}")
        return (default,)
    if entry.length > MOST_SAMPLES:
        raise CorruptImage(f"the TIFF has {entry.length:,} values in its tag {tag}")
    if entry.kind not in _INTEGERS:
        raise CorruptImage(f"the TIFF's tag {tag} has type {entry.kind}, which is not a whole number")
    return numbers(data, entry, order)


class Parts:
    """The parts of an image.

    Args:
        data: the file.
        entries: the entries of its directory.
        size: width and height of the image in pixels.
        samples: samples per pixel.
        sample_bytes: bytes per unpacked sample.
        most: maximum number of parts.

    Raises:
        CorruptImage: offsets are missing, or parts are missing, too large, or not all in the file.
        UnsupportedImage: there are too many parts.
    """

    def __init__(
        self,
        data: Data,
        entries: dict[int, Entry],
        order: Order,
        size: tuple[int, int],
        samples: int,
        sample_bytes: int,
        most: int = MOST_PARTS,
    ) -> None:
        width, height = size
        self.is_tiled = TILE_WIDTH in entries or TILES in entries

        def get(tag: int, default: int | None = None) -> int:
            return integers(data, entries, order, tag, default)[0]

        self.packing = get(PACKING, _NOT_PACKED)
        self.planes = samples if get(PLANES, 1) == 2 else 1
        self._channels = samples // self.planes
        if self.is_tiled:
            self.width, self.height = get(TILE_WIDTH), get(TILE_HEIGHT)
        else:
            self.width, self.height = width, min(get(ROWS, height), height)
        if not self.width or not self.height:
            raise CorruptImage(f"the TIFF has parts of {self.width}x{self.height} pixels")
        if self.width * self.height > width * height + _OVERHANG:
            raise UnsupportedImage(
                f"TIFF of {width}x{height} pixels with parts of {self.width}x{self.height} pixels is not supported"
            )
        self.columns = -(-width // self.width)
        self.places = self.columns * -(-height // self.height)
        """Number of strips or tiles of one plane."""
        self.count = self.places * self.planes
        self.bytes = self.width * self.height * self._channels * sample_bytes
        """Of the largest part, unpacked."""
        places, sizes = (TILES, TILE_BYTES) if self.is_tiled else (STRIPS, STRIP_BYTES)
        said = min(entries[tag].length if tag in entries else 0 for tag in (places, sizes))
        if said < self.count:
            raise CorruptImage(f"the TIFF has {said} of its {self.count} strips or tiles")
        if self.count > most:
            raise UnsupportedImage(
                f"TIFF with {self.count:,} strips or tiles is not supported; at most {most:,} are"
            )
        self._offsets, self._sizes = (
            _array(data, entries[tag], order, self.count) for tag in (places, sizes)
        )
        self._end = height
        self._row_bytes = -(-self.width * self._channels * get(BITS, 1) // 8)
        """Of a row of a part, unpacked as the file stores it."""
        if self.packing == _NOT_PACKED:
            self._sizes = np.minimum(self._sizes, self._needed(np.arange(self.count)))
        self._check(len(data))
        self._cut(get)
        self._tables = _tables(data, entries)
        kept: Tree = {}
        for tag in _KEPT:
            if tag in entries:
                values = integers(data, entries, order, tag)
                kept[tag] = longs(order, *(values if tag in _SEVERAL else values[:1]))
        kept[PLANES] = longs(order, 1 if self.planes == 1 else 2)
        kept |= (
            {TILE_WIDTH: longs(order, self.width), TILE_HEIGHT: longs(order, self.height)}
            if self.is_tiled
            else {ROWS: longs(order, self.height)}
        )
        at, length = self.place(0)
        self._unpack = _unpacker(kept, data[at : at + min(length, 16)], order)

    def place(self, index: int) -> tuple[int, int]:
        """The offset of a part in the file, and its number of bytes."""
        return int(self._offsets[index]), int(self._sizes[index])

    def position(self, place: int) -> tuple[int, int]:
        """The row and the column of the first pixel of a place, 0 to `places` - 1."""
        row, column = divmod(place, self.columns)
        return row * self.height, column * self.width

    def samples(self, place: int, read: Callable[[int, int], bytes]) -> Pixels:
        """The samples (height, width, samples per pixel) of a place, from all planes.

        Args:
            read: (offset, number of bytes) -> bytes of the file.

        Raises:
            CorruptImage: the bytes are damaged, or give other pixels than the part has.
        """
        indices = [place + plane * self.places for plane in range(self.planes)]
        planes = [self._unpacked(index, read(*self.place(index))) for index in indices]
        try:
            return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        except ValueError:
            raise CorruptImage(f"{self.name(place)} is damaged: its planes differ in size") from None

    def _unpacked(self, index: int, data: bytes) -> Pixels:
        try:
            if self.packing == JPEG:
                self._check_jpeg(data)
            pixels: Pixels | None = self._unpack(data, index, jpegtables=self._tables)[0]
        except MemoryError:
            raise
        except Exception as error:  # the libraries raise undocumented exceptions
            if shorter := self._without_excess(index, data):
                return self._unpacked(index, shorter)
            said = " ".join(str(error).split())
            raise CorruptImage(f"{self.name(index)} is damaged: {said or 'it is cut off'}") from None
        if pixels is None or pixels.ndim != 4:
            raise CorruptImage(f"{self.name(index)} is damaged: it does not hold its pixels")
        first: Pixels = pixels[0]
        return first

    def _needed(self, index: IndexArray) -> IndexArray:
        """The bytes of parts, unpacked as the file stores them."""
        rows = np.full(len(index), self.height)
        if not self.is_tiled:
            rows = np.minimum(rows, self._end - index % self.places * self.height)
        return rows.astype(np.uint64) * np.uint64(self._row_bytes)

    def _without_excess(self, index: int, data: bytes) -> bytes:
        """A part without bytes behind its pixels: some programs fill up the last strip. Empty if it has none."""
        name = _BOUNDED.get(self.packing)
        if name is None:
            return b""
        imagecodecs = importlib.import_module("imagecodecs")
        needed = int(self._needed(np.array([index]))[0])
        try:
            plain = getattr(imagecodecs, f"{name}_decode")(data, out=self.height * self._row_bytes)
        except Exception:  # the libraries raise undocumented exceptions
            return b""
        return bytes(getattr(imagecodecs, f"{name}_encode")(plain[:needed])) if len(plain) > needed else b""

    def _cut(self, get: Callable[[int, int], int]) -> None:
        """Cut one uncompressed strip with all rows into several, so that it is read in parts."""
        height, row = self._end, self._row_bytes
        rest = self.width * self._channels * get(BITS, 1) % 8
        if self.is_tiled or self.packing != _NOT_PACKED or self.places > 1 or rest or get(FILL_ORDER, 1) != 1:
            return
        if self.planes > 1 or row * height <= _CUT or int(self._sizes[0]) < row * height:
            return
        self.height = max(1, _CUT // row)
        self.places = self.count = -(-height // self.height)
        self.bytes = self.bytes // height * self.height
        tops = np.arange(self.places, dtype=np.uint64) * np.uint64(self.height)
        rows = np.minimum(np.uint64(height) - tops, np.uint64(self.height))
        self._offsets = self._offsets[0] + tops * np.uint64(row)
        self._sizes = rows * np.uint64(row)

    def name(self, index: int) -> str:
        if self.is_tiled:
            row, column = divmod(index % self.places, self.columns)
            return f"the TIFF's tile {index} (row {row}, column {column})"
        return f"the TIFF's strip {index}"

    def _check(self, size: int) -> None:
        """Check that all parts are inside a file of this size, before any memory is allocated."""
        offsets, sizes = self._offsets, self._sizes
        most = 2 * self.bytes + _COMMON
        for wrong, what in (
            ((offsets == 0) | (sizes == 0), "is missing"),
            ((offsets > size) | (sizes > size) | (offsets + sizes > size), "lies beyond the end of the file"),
            (sizes > most, "has so many bytes, more than its pixels can need"),
        ):
            if wrong.any():
                raise CorruptImage(f"{self.name(int(wrong.argmax()))} {what}")
        if int(sizes.sum()) > max(_SHARED, 8 * size):
            raise CorruptImage("the TIFF's strips or tiles overlap")

    def _check_jpeg(self, data: bytes) -> None:
        """Check that the size in a part's frame header fits its place, because the decoder uses that size."""
        fits = False
        for marker, start, _ in segments.walk(data):
            if marker in segments.FRAMES:
                bits, down, across, channels = (
                    number(data, start + at, length) for at, length in ((0, 1), (1, 2), (3, 2), (5, 1))
                )
                fits = 0 < down <= self.height and 0 < across <= self.width
                if marker > 0xC2 or bits != 8 or channels != self._channels or not fits:
                    raise CorruptImage("its size differs from its place in the image")
        if not fits:
            raise CorruptImage("it has no frame header")
        segments.check_scans(data)


def _array(data: Data, entry: Entry, order: Order, count: int) -> IndexArray:
    """The first `count` values of a tag with one value per part."""
    if entry.kind not in _INTEGERS or entry.at + entry.size > len(data):
        raise CorruptImage("the TIFF has no offsets of its pixels")
    size = SIZES[entry.kind]
    values = data[entry.at : entry.at + size * count]
    return np.frombuffer(values, f"{'<' if order == 'little' else '>'}u{size}").astype(np.uint64)


def _tables(data: Data, entries: dict[int, Entry]) -> bytes | None:
    """The JPEG tables that all parts share."""
    entry = entries.get(_TABLES)
    if entry is None:
        return None
    tables = bytes(data[entry.at : entry.at + min(entry.size, _COMMON)])
    try:
        if any(marker not in _IN_TABLES for marker, _, _ in segments.walk(tables)):
            raise CorruptImage("the TIFF's JPEG tables contain pixels")
    except MoreNeeded:
        raise CorruptImage("the TIFF's JPEG tables are cut off") from None
    return tables


def _unpacker(tags: Tree, first: bytes, order: Order) -> Any:
    """tifffile's function that unpacks parts with these tags. `first` is the beginning of the first part."""

    def with_part(at: int) -> bytes:
        place = {TILES: at, TILE_BYTES: 16} if TILE_WIDTH in tags else {STRIPS: at, STRIP_BYTES: 16}
        return laid_out(tags | {tag: longs(order, value) for tag, value in place.items()}, 8, order)

    mark = (b"II*\0" if order == "little" else b"MM\0*") + (8).to_bytes(4, order)
    end = 8 + len(with_part(0))
    with library().TiffFile(io.BytesIO(mark + with_part(end) + bytes(first).ljust(16, b"\0"))) as file:
        return file.pages.first.decode
