"""TIFF and BigTIFF: tiles and strips read anywhere, tiles written.

Directories are read by tifffile, pieces unpacked by imagecodecs (libdeflate, zstd, libjpeg-turbo). Files are
laid out here: pieces in their order, then the directory.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Literal

import numpy as np

from imageloom.codecs.jpeg import MOST_SCANS
from imageloom.codecs.tags import SIZES
from imageloom.errors import CorruptImage, MissingExtra, UnreadableItem, UnsupportedImage
from imageloom.model import Frame, Pixels, Plain
from imageloom.streams import ordered
from imageloom.streams.files import RandomFile
from imageloom.streams.pieces import Pieces, check_box, filled

Compression = Literal["none", "deflate", "zstd", "jpeg"]
_CODES: dict[Compression, int] = {"none": 1, "jpeg": 7, "deflate": 8, "zstd": 50000}
_READABLE = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32946: "deflate", 32773: "PackBits", 50000: "zstd"}
_JPEG = 7
_GRAY, _RGB, _YCBCR = 1, 2, 6
"""PhotometricInterpretation."""
_ASSOCIATED, _UNASSOCIATED = 1, 2
_FLOAT = 3
_SHORT, _LONG, _LONG8 = 3, 4, 16
_CLASSIC_END = (1 << 32) - (1 << 16)
"""Files that go on beyond have 64-bit offsets."""
_DHT, _SOS, _DQT, _APP0 = 0xC4, 0xDA, 0xDB, 0xE0
_NO_FRAME = (_DHT, 0xC8, 0xCC)
"""Of the JPEG markers from 0xC0 to 0xCF, those that do not begin a frame header."""
_LARGEST_PIECE = 64 << 20
_CACHE, _SMALL_CACHE = 64 << 20, 16 << 20
"""Bytes of unpacked pieces that are kept; the second of them where the first would not hold two rows of pieces."""
_COMMON = 1 << 16
"""Bytes that a compressed piece may have beyond twice its pixels."""


@lru_cache(maxsize=1)
def _codecs() -> ModuleType:
    try:
        return importlib.import_module("imagecodecs")
    except ImportError:
        raise MissingExtra("TIFF in tiles", "tiles") from None


@lru_cache(maxsize=1)
def _library() -> ModuleType:
    _codecs()
    try:
        tifffile = importlib.import_module("tifffile")
    except ImportError:
        raise MissingExtra("TIFF in tiles", "tiles") from None
    # What it has to say about a file comes as an error or does not matter.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    return tifffile


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
        self._file = RandomFile(path)
        try:
            self._page = _first_page(path)
            self.frame, self.pieces = _checked(self._page)
            self._offsets, self._sizes = list(self._page.dataoffsets), list(self._page.databytecounts)
            self._check_parts()
            self._tables = self._page.jpegtables
            self._unpack = self._page.decode
        except BaseException:
            self._file.close()
            raise
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
        data = self._file.read(self._offsets[index], self._sizes[index])
        if self._page.compression == _JPEG and not _within(data, self.pieces):
            raise CorruptImage(f"{self._name(index)} is damaged: it has other pixels than its place")
        try:
            samples: Pixels = self._unpack(data, index, jpegtables=self._tables)[0]
        except MemoryError:
            raise
        except Exception as error:  # the libraries below raise what they like
            raise CorruptImage(f"{self._name(index)} is damaged: {' '.join(str(error).split())}") from None
        left, top, right, bottom = self.pieces.box(index)
        piece = samples[0] if self.frame.channels > 1 else samples[0, :, :, 0]
        if piece.shape[0] < bottom - top or piece.shape[1] < right - left or piece.dtype != self.frame.dtype:
            raise CorruptImage(f"{self._name(index)} is damaged: it does not hold its pixels")
        if self.frame.channels in (2, 4) and tuple(self._page.extrasamples) == (_ASSOCIATED,):
            return importlib.import_module("imageloom.codecs.tiff").divided_by_alpha(piece)  # type: ignore[no-any-return]
        return piece

    def _check_parts(self) -> None:
        count = len(self.pieces)
        if min(len(self._offsets), len(self._sizes)) < count:
            raise CorruptImage(
                f"the TIFF has {min(len(self._offsets), len(self._sizes))} of its {count} pieces"
            )
        most = 2 * _piece_bytes(self.pieces) + _COMMON
        for index, (offset, size) in enumerate(zip(self._offsets[:count], self._sizes, strict=False)):
            if not offset or not size:
                raise CorruptImage(f"{self._name(index)} is missing")
            if offset + size > self._file.size:
                raise CorruptImage(f"{self._name(index)} lies beyond the end of the file")
            if size > most:
                raise CorruptImage(f"{self._name(index)} has {size:,} bytes, more than its pixels can need")

    def _name(self, index: int) -> str:
        if self._page.is_tiled:
            row, column = divmod(index, self.pieces.columns)
            return f"the TIFF's tile {index} (row {row}, column {column})"
        return f"the TIFF's strip {index}"


def _first_page(path: Path) -> Any:
    tifffile = _library()
    try:
        with path.open("rb") as opened, tifffile.TiffFile(opened) as file:
            page = file.pages.first
            try:
                file.pages[1]
            except IndexError:
                # The lazily read values are read while the file is open.
                _ = page.dataoffsets, page.databytecounts, page.jpegtables, page.decode
                return page
    except OSError as error:
        raise UnreadableItem(f"cannot be read: {error.strerror}") from error
    except Exception as error:  # the library raises what it likes, MemoryError for a length that lies
        raise CorruptImage(f"the TIFF's directory is damaged: {' '.join(str(error).split())}") from None
    raise UnsupportedImage("TIFF of several pages is not supported")


def _checked(page: Any) -> tuple[Frame, Pieces]:
    """Size and pieces of an image of a kind that is read here."""
    channels, dtype = page.samplesperpixel, None if page.dtype is None else page.dtype.name
    gray = page.photometric == _GRAY and channels in (1, 2)
    colour = page.photometric == _RGB and channels in (3, 4)
    if not (gray or colour or (page.photometric == _YCBCR and page.compression == _JPEG and channels == 3)):
        kind = f"colour kind {int(page.photometric)} and {channels} channels"
        raise UnsupportedImage(f"TIFF of {kind} is not read in regions")
    if page.compression not in _READABLE:
        raise UnsupportedImage(f"TIFF of compression {int(page.compression)} is not supported")
    if dtype not in ("uint8", "uint16", "float32") or page.bitspersample != 8 * page.dtype.itemsize:
        raise UnsupportedImage(f"TIFF of {page.bitspersample} bits ({dtype}) is not read in regions")
    if channels in (2, 4) and tuple(page.extrasamples) not in ((0,), (_ASSOCIATED,), (_UNASSOCIATED,)):
        raise UnsupportedImage("TIFF of further channels is not read in regions")
    if channels > 1 and page.planarconfig != 1:
        raise UnsupportedImage("TIFF of separate planes is not read in regions")
    width, height = page.imagewidth, page.imagelength
    across, down = (page.tilewidth, page.tilelength) if page.is_tiled else (width, page.rowsperstrip)
    if min(width, height, across, down) < 1:
        raise CorruptImage(f"the TIFF has {width}x{height} pixels in pieces of {across}x{down}")
    frame = Frame(width, height, channels, dtype)
    pieces = Pieces(frame, across, down if page.is_tiled else min(down, height))
    if _piece_bytes(pieces) > _LARGEST_PIECE:
        raise UnsupportedImage(f"TIFF of pieces of {across}x{down} pixels is not read in regions")
    return frame, pieces


def _within(data: bytes, pieces: Pieces) -> bool:
    """Whether the frame header of a JPEG says no more pixels than a piece has; its decoder believes it."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == _SOS:
            return data.count(bytes((0xFF, _SOS))) <= MOST_SCANS
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            if not (0 < height <= pieces.height and 0 < width <= pieces.width):
                return False
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
    return False


def _piece_bytes(pieces: Pieces) -> int:
    frame = pieces.frame
    return pieces.width * pieces.height * (frame.bytes // frame.pixels)
