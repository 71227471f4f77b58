"""TIFF: read by tifffile and imagecodecs, written here.

The tags are checked here before the library sees the file: only kinds of pixels whose meaning is known pass,
and only parts that the file holds.
"""

from __future__ import annotations

import importlib
import io
import logging
import zlib
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imageloom.codecs.bits import MoreNeeded, number
from imageloom.codecs.tags import (
    EXIF,
    GPS,
    LONG,
    UNDEFINED,
    Order,
    Tree,
    Value,
    directory,
    laid_out,
    little_endian,
    longs,
    numbers,
    order_of,
    shorts,
    tree,
)
from imageloom.errors import CorruptImage, MissingExtra, UnsupportedImage
from imageloom.model import NO_METADATA, DType, Format, Frame, Header, Metadata, Pixels, is_large

if TYPE_CHECKING:
    from imageloom.streams.ordered import FileEncoder

_WIDTH, _HEIGHT, _BITS, _PACKING, _COLOURS = 256, 257, 258, 259, 262
_STRIPS, _ORIENTATION, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANES = 273, 274, 277, 278, 279, 284
_PREDICTOR, _PALETTE, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 317, 320, 322, 323, 324, 325
_EXTRA, _SAMPLE_FORMAT, _XMP, _ICC = 338, 339, 700, 34675

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTED, _YCBCR = 0, 1, 2, 3, 6
_REFUSED_COLOURS = {4: "mask", 5: "CMYK", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "raw", 34892: "raw"}
_PACKINGS = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32946: "deflate", 32773: "PackBits", 50000: "zstd"}
_JPEG, _DEFLATE = 7, 8
_ASSOCIATED = 1
"""An alpha that the colours are multiplied by."""
_MOST_PARTS = 1 << 16
"""Strips or tiles of a file."""
_MOST_PAGES = 1 << 10
"""Directories that are looked at for a loop."""
_DESCRIPTIVE = frozenset((269, 270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 33432, EXIF, GPS))
"""Tags of the first directory that describe the picture and not how it is stored."""
_STRIP = 1 << 18
"""Bytes of pixels in a strip that is written, about."""


@lru_cache(maxsize=1)
def _library() -> ModuleType:
    try:
        importlib.import_module("imagecodecs")
        tifffile = importlib.import_module("tifffile")
    except ImportError:
        raise MissingExtra("reading TIFF", "tiff") from None
    # What it has to say about a file comes as an error or does not matter.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    return tifffile


class _Layout(NamedTuple):
    """What the first directory says of the pixels."""

    frame: Frame
    colours: int
    bits: int
    extra: int
    orientation: int


class Tiff:
    format: Format = "tiff"
    quality = 0
    encoder_bytes = 0
    written: Format = "tiff"
    carries: tuple[str, ...] = ("EXIF", "XMP", "ICC")

    def header(self, head: bytes) -> Header:
        layout = _layout(head)
        return Header("tiff", layout.frame, orientation=layout.orientation)

    def cannot_hold(self, frame: Frame) -> str | None:
        return None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int) -> Pixels:
        layout = _layout(data)
        _check_parts(data, layout)
        tifffile = _library()
        try:
            with tifffile.TiffFile(io.BytesIO(data)) as file:
                page = file.pages.first
                pixels: Pixels = page.asarray(maxworkers=1)
                palette = page.colormap
        except MemoryError:
            raise
        except Exception as error:  # the libraries below raise what they like
            raise CorruptImage(f"the TIFF cannot be decoded: {' '.join(str(error).split())}") from None
        return _as_declared(pixels, palette, layout)

    def metadata(self, data: bytes) -> Metadata:
        """EXIF as a block of its own, made of the file's tags: a maker's notes may lose their places."""
        order, big, at = _beginning(data)
        entries = directory(data, at, order, big).entries
        kept = tree(data, at, order, _DESCRIPTIVE, big)
        start = (b"II*\0" if order == "little" else b"MM\0*") + (8).to_bytes(4, order)
        xmp, icc = (
            data[entries[tag].at : entries[tag].at + entries[tag].size] if tag in entries else b""
            for tag in (_XMP, _ICC)
        )
        return Metadata(start + laid_out(kept, 8, order) if kept else b"", xmp, b"", icc)

    def encode(self, image: Pixels, quality: int, metadata: Metadata = NO_METADATA) -> bytes:
        """Strips in deflate at zlib's level 1, whole numbers as differences to the pixel on their left."""
        if is_large(image):
            return self.in_pieces(Frame.of(image), quality, metadata).encode(image)
        order, described = _described(metadata.exif)
        height, width = image.shape[:2]
        channels = 1 if image.ndim == 2 else image.shape[2]
        rows = max(1, _STRIP // (width * channels * image.itemsize))
        strips = [_packed(image[y : y + rows], order) for y in range(0, height, rows)]
        ends = np.cumsum([8, *(len(strip) + len(strip) % 2 for strip in strips)]).tolist()
        tags: Tree = {
            _WIDTH: longs(order, width),
            _HEIGHT: longs(order, height),
            _BITS: shorts(order, *[8 * image.itemsize] * channels),
            _PACKING: shorts(order, _DEFLATE),
            _COLOURS: shorts(order, _RGB if channels > 2 else _BLACK_IS_ZERO),
            _STRIPS: longs(order, *ends[:-1]),
            _ORIENTATION: shorts(order, 1),
            _SAMPLES: shorts(order, channels),
            _ROWS: longs(order, rows),
            _STRIP_BYTES: longs(order, *map(len, strips)),
            _PLANES: shorts(order, 1),
            _PREDICTOR: shorts(order, 1 if image.dtype == np.float32 else 2),
            _SAMPLE_FORMAT: shorts(order, *[3 if image.dtype == np.float32 else 1] * channels),
        }
        if channels in (2, 4):
            tags[_EXTRA] = shorts(order, 2)
        if metadata.xmp:
            tags[_XMP] = Value(1, len(metadata.xmp), metadata.xmp)
        if metadata.icc:
            tags[_ICC] = Value(UNDEFINED, len(metadata.icc), metadata.icc)
        mark = b"II*\0" if order == "little" else b"MM\0*"
        padded = (strip + bytes(len(strip) % 2) for strip in strips)
        return b"".join(
            (mark, ends[-1].to_bytes(4, order), *padded, laid_out(described | tags, ends[-1], order))
        )

    def in_pieces(self, frame: Frame, quality: int, metadata: Metadata = NO_METADATA) -> FileEncoder:
        """What encodes a large image tile by tile, to the same bytes as `encode`."""
        from imageloom.streams import tiff  # no small image waits for it

        def tags(branch: Tree) -> tuple[tiff.Tag, ...]:
            return tuple(
                tiff.Tag(code, LONG, b"", tags(value))
                if isinstance(value, dict)
                else tiff.Tag(code, value.kind, little_endian(value, order))
                for code, value in sorted(branch.items())
                if value
            )

        order, described = _described(metadata.exif)
        blocks = [(_XMP, 1, metadata.xmp), (_ICC, UNDEFINED, metadata.icc)]
        carried = tuple(tiff.Tag(*block) for block in blocks if block[2])
        return tiff.Encoder(frame, tags=(*tags(described), *carried))


def _described(exif: bytes) -> tuple[Order, Tree]:
    """The byte order of an EXIF block and what it says of the picture."""
    if not exif:
        return "little", {}
    order = order_of(exif)
    return order, tree(exif, int.from_bytes(exif[4:8], order), order, _DESCRIPTIVE)


def _beginning(data: bytes) -> tuple[Order, bool, int]:
    """The byte order, whether it is a BigTIFF, and where the first directory stands."""
    order = order_of(data)
    big = b"+" in data[2:4]
    return order, big, number(data, 8 if big else 4, 8 if big else 4, order)


def _layout(data: bytes) -> _Layout:
    """What the first directory says, where it can be decoded rightly.

    Raises:
        MoreNeeded: it goes on behind the end.
        UnsupportedImage: pixels of another kind, or several pages.
        CorruptImage: tags are missing.
    """
    order, big, at = _beginning(data)
    entries, more, _ = directory(data, at, order, big)
    if more:
        _refuse_loop(data, at, order, big)
        raise UnsupportedImage("TIFF of several pages is not supported")

    def get(tag: int, default: int | None = None) -> tuple[int, ...]:
        entry = entries.get(tag)
        if entry is None or not entry.length:
            if default is None:
                raise CorruptImage(f"the TIFF lacks its tag {tag}")
            return (default,)
        if entry.length > 16:
            raise CorruptImage(f"the TIFF has {entry.length:,} values in its tag {tag}")
        return numbers(data, entry, order) or (0,)

    width, height, colours, samples = (
        get(_WIDTH)[0],
        get(_HEIGHT)[0],
        get(_COLOURS, _BLACK_IS_ZERO)[0],
        get(_SAMPLES, 1)[0],
    )
    bits, kinds, packing = set(get(_BITS, 1)), set(get(_SAMPLE_FORMAT, 1)), get(_PACKING, 1)[0]
    if colours in _REFUSED_COLOURS:
        raise UnsupportedImage(f"{_REFUSED_COLOURS[colours]} TIFF is not supported")
    if colours > _PALETTED and not (colours == _YCBCR and packing == _JPEG):
        raise UnsupportedImage(f"TIFF of colour kind {colours} and compression {packing} is not supported")
    if packing not in _PACKINGS:
        known = ", ".join(dict.fromkeys(_PACKINGS.values()))
        raise UnsupportedImage(f"TIFF of compression {packing} is not supported; these are: {known}")
    base = 3 if colours in (_RGB, _YCBCR) else 1
    if samples not in (base, base + 1) or (colours == _PALETTED and samples > 1):
        raise UnsupportedImage(f"TIFF of {samples} channels and colour kind {colours} is not supported")
    if len(bits) > 1 or len(kinds) > 1:
        raise UnsupportedImage("TIFF of channels that differ in depth is not supported")
    depth, kind = bits.pop(), kinds.pop()
    dtype = _dtype(depth, kind, samples, colours)
    turned = get(_ORIENTATION, 1)[0]
    channels = 3 if colours == _PALETTED else samples
    extra = get(_EXTRA, 0)[0] if samples > base else 0
    frame = Frame(width, height, channels, dtype)
    return _Layout(frame, colours, depth, extra, turned if 1 <= turned <= 8 else 1)


def _refuse_loop(data: bytes, at: int, order: Order, big: bool) -> None:
    """Raise CorruptImage where a chain of directories comes back to one of its own."""
    seen: set[int] = set()
    while at and len(seen) < _MOST_PAGES:
        if at in seen:
            raise CorruptImage("the TIFF's chain of directories is a loop")
        seen.add(at)
        at = directory(data, at, order, big).next


def _dtype(bits: int, kind: int, samples: int, colours: int) -> DType:
    """The type of the decoded samples. kind: 1 whole numbers, 2 signed ones, 3 floating point."""
    if kind == 3 and bits == 32 and colours != _PALETTED:
        return "float32"
    if kind == 1 and (bits == 8 or (samples == 1 and bits in (1, 2, 4))):
        return "uint8"
    if kind == 1 and bits == 16 and colours != _PALETTED:
        return "uint16"
    what = {1: "unsigned", 2: "signed", 3: "floating-point"}.get(kind, "unknown")
    raise UnsupportedImage(f"TIFF of {bits} bits, {what}, is not supported")


def _check_parts(data: bytes, layout: _Layout) -> None:
    """Refuse a file whose strips or tiles are not all there, before any memory is asked for."""
    order, big, at = _beginning(data)
    entries = directory(data, at, order, big).entries
    width, height = layout.frame.width, layout.frame.height
    tiled = _TILES in entries
    places, sizes = (_TILES, _TILE_BYTES) if tiled else (_STRIPS, _STRIP_BYTES)
    try:
        if max(entries[places].length, entries[sizes].length) > _MOST_PARTS:
            raise UnsupportedImage(f"TIFF of more than {_MOST_PARTS:,} strips or tiles is not supported")
        offsets, counts = (numbers(data, entries[tag], order) for tag in (places, sizes))
        if tiled:
            across, down = (numbers(data, entries[tag], order)[0] for tag in (_TILE_WIDTH, _TILE_HEIGHT))
        else:
            across, down = width, numbers(data, entries[_ROWS], order)[0] if _ROWS in entries else height
        planes = numbers(data, entries[_PLANES], order)[0] if _PLANES in entries else 1
    except (KeyError, IndexError, MoreNeeded):
        raise CorruptImage("the TIFF does not say where its pixels are") from None
    down = down if tiled else min(down, height)
    if not across or not down or (max(across, down) > 1 << 16 and tiled):
        raise CorruptImage(f"the TIFF has parts of {across}x{down} pixels")
    expected = -(-width // across) * -(-height // down) * (layout.frame.channels if planes == 2 else 1)
    if min(len(offsets), len(counts)) < expected:
        raise CorruptImage(f"the TIFF has {min(len(offsets), len(counts))} of its {expected} strips or tiles")
    if any(not n or o + n > len(data) for o, n in zip(offsets, counts, strict=False)):
        raise CorruptImage("the TIFF is cut off: it does not hold all of its pixels")


def _as_declared(pixels: Pixels, palette: Pixels | None, layout: _Layout) -> Pixels:
    """tifffile's samples as gray or RGB, with channels last, in the whole range of their type."""
    frame = layout.frame
    if (
        pixels.ndim == 3
        and pixels.shape[0] == frame.channels
        and pixels.shape[1:] == (frame.height, frame.width)
    ):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    expected = (
        (frame.height, frame.width)
        if layout.colours == _PALETTED or frame.channels == 1
        else (frame.height, frame.width, frame.channels)
    )
    if pixels.shape != expected:
        raise CorruptImage("the TIFF decodes to another shape than its header says")
    if layout.colours == _PALETTED:
        if palette is None or len(palette[0]) < 1 << layout.bits:
            raise CorruptImage("the TIFF lacks its palette")
        return (palette.T >> 8).astype(np.uint8)[pixels]
    if layout.bits < 8:
        pixels = pixels.astype(np.uint8) * np.uint8(255 // ((1 << layout.bits) - 1))
    pixels = np.ascontiguousarray(pixels, dtype=frame.dtype)
    if layout.extra == _ASSOCIATED and frame.channels in (2, 4):
        pixels = divided_by_alpha(pixels)
    if layout.colours == _WHITE_IS_ZERO:
        top = 1.0 if frame.dtype == "float32" else np.iinfo(frame.dtype).max
        gray = pixels if pixels.ndim == 2 else pixels[:, :, 0]
        np.subtract(np.asarray(top, pixels.dtype), gray, out=gray)
    return pixels


def divided_by_alpha(pixels: Pixels) -> Pixels:
    """Colours that were multiplied by their alpha as they were before, as far as they can be known."""
    top = 1.0 if pixels.dtype == np.float32 else float(np.iinfo(pixels.dtype).max)
    alpha = pixels[:, :, -1:].astype(np.float64)
    share = np.divide(top, alpha, out=np.zeros_like(alpha), where=alpha > 0)
    colours = np.minimum(pixels[:, :, :-1] * share, top)
    if pixels.dtype != np.float32:
        colours = np.rint(colours)
    return np.concatenate((colours.astype(pixels.dtype), pixels[:, :, -1:]), axis=2)


def _packed(rows: Pixels, order: Order) -> bytes:
    """A strip: differences along the rows, but for floating point, in deflate."""
    samples = rows.copy()
    if rows.dtype != np.float32:
        np.subtract(rows[:, 1:], rows[:, :-1], out=samples[:, 1:])
    swapped = samples.astype(samples.dtype.newbyteorder("<" if order == "little" else ">"), copy=False)
    return zlib.compress(swapped.tobytes(), 1)
