"""TIFF: decoded by tifffile and imagecodecs, encoded by this module.

The tags are checked before the library reads the file. Only supported kinds of pixels are accepted, and all strips
and tiles must be inside the file.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imageloom.codecs.bits import MOST_AT_ONCE, Data, MoreNeeded, block, number
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.codecs.stated import colours_of
from imageloom.codecs.tags import (
    EXIF,
    GPS,
    LONG,
    SHORT,
    UNDEFINED,
    Entry,
    Order,
    Tree,
    Value,
    directory,
    laid_out,
    little_endian,
    longs,
    next_directory,
    order_of,
    shorts,
    tree,
)
from imageloom.codecs.tiffparts import (
    BITS,
    COLOURS,
    EXTRA,
    HEIGHT,
    JPEG,
    MOST_PARTS,
    PACKING,
    PLANES,
    PREDICTOR,
    ROWS,
    SAMPLE_FORMAT,
    SAMPLES,
    STRIP_BYTES,
    STRIPS,
    WIDTH,
    Parts,
    integers,
)
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import DType, Encoding, Format, Frame, Header, Pixels, Thing, is_large

if TYPE_CHECKING:
    from imageloom.codecs.piecewise.ordered import FileEncoder

_ORIENTATION, _PALETTE, _XMP, _ICC = 274, 320, 700, 34675

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTED, _CMYK, _YCBCR, _CIELAB, _ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
_REFUSED_COLOURS = {4: "mask", 10: "ITULab", 32803: "raw", 34892: "raw"}
_PACKINGS = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32946: "deflate", 32773: "PackBits", 50000: "zstd"}
_DEFLATE = 8
CONVERTED = {_CMYK: "CMYK", _CIELAB: "CIELab", _ICCLAB: "ICCLab"}
"""Colours that are decoded to RGB."""
_INKS = 332
"""The tag for the kind of inks: 1 is CMYK."""
_ASSOCIATED = 1
"""Associated alpha: the colours are multiplied by it."""
_MOST_PAGES = 16
"""Maximum number of directories to check for a loop."""
_DESCRIPTIVE = frozenset((269, 270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 33432, EXIF, GPS))
"""Tags of the first directory that describe the picture, not its storage."""
_STRIP = 1 << 18
"""Approximate size of the pixels of a written strip, in bytes."""


class Layout(NamedTuple):
    """The layout of the pixels, from the first directory."""

    frame: Frame
    colours: int
    bits: int
    samples: int
    extra: int
    orientation: int
    order: Order
    entries: dict[int, Entry]

    def parts(self, data: Data, most: int = MOST_PARTS) -> Parts:
        """The strips or tiles of the pixels."""
        frame = self.frame
        return Parts(
            data,
            self.entries,
            self.order,
            (frame.width, frame.height),
            self.samples,
            np.dtype(frame.dtype).itemsize,
            most,
        )


class Tiff:
    format: Format = "tiff"
    quality = 0
    encoder_bytes = 0
    written: Format = "tiff"
    carries: tuple[Thing, ...] = ("EXIF", "XMP", "colour profile")

    def header(self, head: Data) -> Header:
        layout = layout_of(head)
        at, size = _extent(layout.entries.get(_ICC))
        if size > MOST_AT_ONCE or layout.colours in CONVERTED:
            size = 0
        if at + size > len(head):
            raise MoreNeeded
        stated = colours_of(Metadata(icc=head[at : at + size]), layout.frame.channels) if size else ""
        return Header(
            "tiff",
            layout.frame,
            orientation=layout.orientation,
            buffered=4 * layout.frame.bytes if layout.colours in CONVERTED else 0,
            colours=stated,
            stored=CONVERTED.get(layout.colours, ""),
        )

    def cannot_hold(self, frame: Frame) -> str | None:
        return None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        layout = layout_of(data)
        parts = layout.parts(data)
        frame = layout.frame
        pixels = np.empty((frame.height, frame.width, layout.samples), frame.dtype)
        for index in range(parts.count):
            at, length = parts.place(index)
            part = parts.unpacked(index, data[at : at + length])
            samples = part.plane if parts.planes > 1 else slice(None)
            target = pixels[part.y : part.y + parts.height, part.x : part.x + parts.width, samples]
            found = part.pixels[: target.shape[0], : target.shape[1], ...]
            target[...] = found[:, :, 0] if parts.planes > 1 else found
        if layout.colours in CONVERTED:
            return _converted(pixels, data, layout)
        return _as_declared(pixels, _palette(data, layout), layout)

    def metadata(self, data: bytes) -> Metadata:
        """The metadata. EXIF becomes a separate block, made from the file's tags. Offsets in maker notes may
        become invalid."""
        order, big, at = _beginning(data)
        entries = directory(data, at, order, big).entries
        kept = tree(data, at, order, _DESCRIPTIVE, big)
        start = (b"II*\0" if order == "little" else b"MM\0*") + (8).to_bytes(4, order)
        xmp, icc = (
            block(data, *_extent(entries.get(tag)), what) for tag, what in ((_XMP, "XMP"), (_ICC, "profile"))
        )
        colours = integers(data, entries, order, COLOURS, _BLACK_IS_ZERO)[0]
        return Metadata(
            start + laid_out(kept, 8, order) if kept else b"",
            xmp,
            icc=b"" if colours in CONVERTED else icc,
            found=("CMYK",) if colours == _CMYK else (),
        )

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        """Encode strips with deflate at level 1. Integers are stored as differences to the pixel on the left."""
        if is_large(image):
            return self.in_pieces(Frame.of(image), encoding, metadata).encode(image)
        order, described = _described(metadata.exif)
        height, width = image.shape[:2]
        channels = 1 if image.ndim == 2 else image.shape[2]
        rows = max(1, _STRIP // (width * channels * image.itemsize))
        strips = [_packed(image[y : y + rows], order) for y in range(0, height, rows)]
        ends = np.cumsum([8, *(len(strip) + len(strip) % 2 for strip in strips)]).tolist()
        tags: Tree = {
            WIDTH: longs(order, width),
            HEIGHT: longs(order, height),
            BITS: shorts(order, *[8 * image.itemsize] * channels),
            PACKING: shorts(order, _DEFLATE),
            COLOURS: shorts(order, _RGB if channels > 2 else _BLACK_IS_ZERO),
            STRIPS: longs(order, *ends[:-1]),
            _ORIENTATION: shorts(order, 1),
            SAMPLES: shorts(order, channels),
            ROWS: longs(order, rows),
            STRIP_BYTES: longs(order, *map(len, strips)),
            PLANES: shorts(order, 1),
            PREDICTOR: shorts(order, 1 if image.dtype == np.float32 else 2),
            SAMPLE_FORMAT: shorts(order, *[3 if image.dtype == np.float32 else 1] * channels),
        }
        if channels in (2, 4):
            tags[EXTRA] = shorts(order, 2)
        if metadata.xmp:
            tags[_XMP] = Value(1, len(metadata.xmp), metadata.xmp)
        if metadata.icc:
            tags[_ICC] = Value(UNDEFINED, len(metadata.icc), metadata.icc)
        mark = b"II*\0" if order == "little" else b"MM\0*"
        padded = (strip + bytes(len(strip) % 2) for strip in strips)
        return b"".join(
            (mark, ends[-1].to_bytes(4, order), *padded, laid_out(described | tags, ends[-1], order))
        )

    def in_pieces(self, frame: Frame, encoding: Encoding, metadata: Metadata = NO_METADATA) -> FileEncoder:
        """An encoder that encodes a large image tile by tile, to the same bytes as `encode`."""
        from imageloom.codecs.piecewise import tiff  # imported late: small images do not need it

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
    """The byte order of an EXIF block, and its tags that describe the picture."""
    if not exif:
        return "little", {}
    order = order_of(exif)
    return order, tree(exif, int.from_bytes(exif[4:8], order), order, _DESCRIPTIVE)


def _beginning(data: Data) -> tuple[Order, bool, int]:
    """The byte order, whether it is a BigTIFF, and the offset of the first directory."""
    order = order_of(data)
    big = b"+" in data[2:4]
    return order, big, number(data, 8 if big else 4, 8 if big else 4, order)


def _extent(entry: Entry | None) -> tuple[int, int]:
    return (entry.at, entry.size) if entry else (0, 0)


def layout_of(data: Data) -> Layout:
    """The layout from the first directory, if it is supported.

    Raises:
        MoreNeeded: the directory is behind the end of the data.
        UnsupportedImage: the kind of pixels is not supported, or there are several pages.
        CorruptImage: tags are missing.
    """
    order, big, at = _beginning(data)
    entries, more, _ = directory(data, at, order, big)
    if more:
        _refuse_loop(data, at, order, big)
        raise UnsupportedImage("TIFF of several pages is not supported")

    def get(tag: int, default: int | None = None) -> tuple[int, ...]:
        return integers(data, entries, order, tag, default)

    width, height, colours, samples = (
        get(WIDTH)[0],
        get(HEIGHT)[0],
        get(COLOURS, _BLACK_IS_ZERO)[0],
        get(SAMPLES, 1)[0],
    )
    bits, kinds, packing = set(get(BITS, 1)), set(get(SAMPLE_FORMAT, 1)), get(PACKING, 1)[0]
    if colours in _REFUSED_COLOURS:
        raise UnsupportedImage(f"{_REFUSED_COLOURS[colours]} TIFF is not supported")
    if colours > _PALETTED and colours not in CONVERTED and not (colours == _YCBCR and packing == JPEG):
        raise UnsupportedImage(f"TIFF of colour kind {colours} and compression {packing} is not supported")
    if packing not in _PACKINGS:
        known = ", ".join(dict.fromkeys(_PACKINGS.values()))
        raise UnsupportedImage(f"TIFF of compression {packing} is not supported; these are: {known}")
    base = {_RGB: 3, _CMYK: 4, _YCBCR: 3, _CIELAB: 3, _ICCLAB: 3}.get(colours, 1)
    if samples not in (base, base + 1) or (colours == _PALETTED and samples > 1):
        raise UnsupportedImage(f"TIFF of {samples} channels and colour kind {colours} is not supported")
    if len(bits) > 1 or len(kinds) > 1:
        raise UnsupportedImage("TIFF of channels that differ in depth is not supported")
    depth, kind = bits.pop(), kinds.pop()
    if colours in CONVERTED:
        if depth not in (8, 16) or kind > 2 or samples != base or get(_INKS, 1)[0] != 1:
            raise UnsupportedImage(
                f"TIFF of {CONVERTED[colours]} with {samples} samples of {depth} bits is not supported"
            )
        kind = 1
    dtype = _dtype(depth, kind, samples, colours)
    turned = get(_ORIENTATION, 1)[0]
    channels = 3 if colours in (_PALETTED, _CMYK) else samples
    extra = get(EXTRA, 0)[0] if samples > base else 0
    frame = Frame(width, height, channels, dtype)
    turned = turned if 1 <= turned <= 8 else 1
    return Layout(frame, colours, depth, samples, extra, turned, order, entries)


def _refuse_loop(data: Data, at: int, order: Order, big: bool) -> None:
    """Raise CorruptImage if the directories form a loop."""
    seen: set[int] = set()
    while at and len(seen) < _MOST_PAGES:
        if at in seen:
            raise CorruptImage("the TIFF's directories form a loop")
        seen.add(at)
        at = next_directory(data, at, order, big)


def _dtype(bits: int, kind: int, samples: int, colours: int) -> DType:
    """The type of the decoded samples. kind: 1 unsigned integer, 2 signed integer, 3 floating point."""
    if kind == 3 and bits == 32 and colours != _PALETTED:
        return "float32"
    if kind == 1 and (bits == 8 or (samples == 1 and bits in (1, 2, 4))):
        return "uint8"
    if kind == 1 and bits == 16 and colours != _PALETTED:
        return "uint16"
    what = {1: "unsigned", 2: "signed", 3: "floating-point"}.get(kind, "unknown")
    raise UnsupportedImage(f"TIFF of {bits} bits, {what}, is not supported")


def _palette(data: bytes, layout: Layout) -> Pixels | None:
    """The 16-bit palette of an image, as rows of RGB; None without a palette."""
    if layout.colours != _PALETTED:
        return None
    entry, length = layout.entries.get(_PALETTE), 3 << layout.bits
    if entry is None or entry.kind != SHORT or entry.length < length or entry.at + 2 * length > len(data):
        raise CorruptImage("the TIFF has no palette")
    values = np.frombuffer(data, "<u2" if layout.order == "little" else ">u2", length, entry.at)
    return values.reshape(3, -1).T


def _converted(pixels: Pixels, data: bytes, layout: Layout) -> Pixels:
    """Inks or CIELab as RGB."""
    from imageloom.colours import inks  # few files need it

    if layout.colours == _CMYK:
        return inks.cmyk_to_srgb(pixels, block(data, *_extent(layout.entries.get(_ICC)), "profile"))
    return inks.lab_to_srgb(pixels, layout.colours == _CIELAB)


def _as_declared(pixels: Pixels, palette: Pixels | None, layout: Layout) -> Pixels:
    """The samples as gray or RGB, in the full range of their type."""
    frame = layout.frame
    if palette is not None:
        return (palette >> 8).astype(np.uint8)[pixels[:, :, 0]]
    if frame.channels == 1:
        pixels = pixels[:, :, 0]
    if layout.bits < 8:
        pixels = pixels * np.uint8(255 // ((1 << layout.bits) - 1))
    if layout.extra == _ASSOCIATED and frame.channels in (2, 4):
        pixels = divided_by_alpha(pixels)
    if layout.colours == _WHITE_IS_ZERO:
        top = 1.0 if frame.dtype == "float32" else np.iinfo(frame.dtype).max
        gray = pixels if pixels.ndim == 2 else pixels[:, :, 0]
        np.subtract(np.asarray(top, pixels.dtype), gray, out=gray)
    return pixels


def divided_by_alpha(pixels: Pixels) -> Pixels:
    """Undo the multiplication of colours by their alpha, as far as possible."""
    top = 1.0 if pixels.dtype == np.float32 else float(np.iinfo(pixels.dtype).max)
    alpha = pixels[:, :, -1:].astype(np.float64)
    share = np.divide(top, alpha, out=np.zeros_like(alpha), where=alpha > 0)
    colours = np.minimum(pixels[:, :, :-1] * share, top)
    if pixels.dtype != np.float32:
        colours = np.rint(colours)
    return np.concatenate((colours.astype(pixels.dtype), pixels[:, :, -1:]), axis=2)


def _packed(rows: Pixels, order: Order) -> bytes:
    """A strip compressed with deflate. Integers are differences along the rows."""
    samples = rows.copy()
    if rows.dtype != np.float32:
        np.subtract(rows[:, 1:], rows[:, :-1], out=samples[:, 1:])
    swapped = samples.astype(samples.dtype.newbyteorder("<" if order == "little" else ">"), copy=False)
    return zlib.compress(swapped.tobytes(), 1)
