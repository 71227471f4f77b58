"""TIFF and BigTIFF in tiles: the pieces in their order, then the directory."""

from __future__ import annotations

import importlib
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Literal

import numpy as np

from imageloom.codecs.piecewise import ordered
from imageloom.codecs.piecewise.pieces import Pieces, filled
from imageloom.codecs.tags import SIZES
from imageloom.errors import MissingExtra
from imageloom.model import Pixels, Plain

Compression = Literal["none", "deflate", "zstd", "jpeg"]
_CODES: dict[Compression, int] = {"none": 1, "jpeg": 7, "deflate": 8, "zstd": 50000}
GRAY, RGB, YCBCR = 1, 2, 6
"""PhotometricInterpretation."""
UNASSOCIATED = 2
"""ExtraSamples: an alpha that the colours are not multiplied by."""
_FLOAT = 3
_SHORT, _LONG, _LONG8 = 3, 4, 16
_CLASSIC_END = (1 << 32) - (1 << 16)
"""Files that go on beyond have 64-bit offsets."""
_DHT, _SOS, _DQT, _APP0 = 0xC4, 0xDA, 0xDB, 0xE0


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
        shown = frame.channels - frame.extra
        ycc = self.compression == "jpeg" and frame.channels == 3
        bits = {"uint8": 8, "uint16": 16, "float32": 32}[frame.dtype]
        tags = [
            _tag(256, _LONG, frame.width),
            _tag(257, _LONG, frame.height),
            _tag(258, _SHORT, *[bits] * frame.channels),
            _tag(259, _SHORT, _CODES[self.compression]),
            _tag(262, _SHORT, YCBCR if ycc else RGB if shown > 2 else GRAY),
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
        extra = [UNASSOCIATED] * (shown in (2, 4)) + [0] * frame.extra
        if extra:
            tags.append(_tag(338, _SHORT, *extra))
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
