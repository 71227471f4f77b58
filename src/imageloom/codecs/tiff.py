"""TIFF: decoded by tifffile and imagecodecs, encoded by this module.

The tags are checked before the library reads the file. Only supported kinds of pixels are accepted, and all strips
and tiles must be inside the file.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from imageloom.codecs import tiffmetadata, tiffpages
from imageloom.codecs.bits import MOST_AT_ONCE, Data, MoreNeeded, View
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.codecs.stated import colours_of
from imageloom.codecs.tags import LONG, Order, Tree, in_order, laid_out, longs, shorts
from imageloom.codecs.tifflayout import (
    BLACK_IS_ZERO,
    CONVERTED,
    ORIENTATION,
    PROFILE,
    RGB,
    UNASSOCIATED,
    Layout,
    as_pixels,
    beginning,
    converter_of,
    layout_of,
    whole,
)
from imageloom.codecs.tiffpages import Page
from imageloom.codecs.tiffparts import (
    BITS,
    COLOURS,
    EXTRA,
    HEIGHT,
    PACKING,
    PLANES,
    PREDICTOR,
    ROWS,
    SAMPLE_FORMAT,
    SAMPLES,
    STRIP_BYTES,
    STRIPS,
    WIDTH,
)
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing, is_large

if TYPE_CHECKING:
    from imageloom.codecs.piecewise.ordered import FileEncoder

_DEFLATE = 8
_STRIP = 1 << 18
"""Approximate size of the pixels of a written strip, in bytes."""


class Tiff:
    format: Format = "tiff"
    quality = 0
    encoder_bytes = 0
    written: Format = "tiff"
    carries: tuple[Thing, ...] = (
        "EXIF",
        "XMP",
        "colour profile",
        "IPTC",
        "Photoshop resources",
        "density",
        "text",
        "comment",
        "georeference",
        "extra samples",
    )
    always_drops: tuple[Thing, ...] = (
        "CMYK",
        "auxiliary images",
        "damaged metadata",
        "layers",
        "mask",
        "pages",
        "private metadata",
        "thumbnail",
    )
    keywords = tiffmetadata.KEYWORDS
    moves_values = True

    def header(self, head: Data) -> Header:
        layout = layout_of(head)
        shown, is_converted = layout.frame.without_extra.channels, layout.colours in CONVERTED
        profile = b"" if is_converted else _profile(head, layout)
        return Header(
            "tiff",
            layout.frame,
            orientation=layout.orientation,
            buffered=4 * layout.frame.bytes if is_converted else 0,
            colours=colours_of(Metadata(icc=profile), shown) if profile else "",
            stored=CONVERTED.get(layout.colours, ""),
        )

    def page_header(self, head: Data, page: int, density: int) -> Header:
        """The header of a page."""
        found = tiffpages.pages(head)
        chosen = found[min(page, len(found) - 1)]
        if len(found) == 1 and not chosen.copies and chosen.at == beginning(head)[2]:
            return self.header(head)
        layout = layout_of(tiffpages.view_of(head, chosen))
        scales = tuple(sorted(_copies(head, chosen, layout)))
        header = self.header(tiffpages.view_of(head, chosen))
        return replace(header, page=page, pages=len(found), scales=scales)

    def cannot_hold(self, frame: Frame) -> str | None:
        return None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        layout = _layout_at(data, header, scale)
        parts, convert = layout.parts(data), converter_of(data, layout)
        frame = layout.frame
        shape = (frame.height, frame.width, frame.channels)[: 2 if frame.channels == 1 else 3]
        pixels = np.empty(shape, frame.dtype)
        for place in range(parts.places):
            y, x = parts.position(place)
            target = pixels[y : y + parts.height, x : x + parts.width]
            samples = parts.samples(place, lambda at, length: data[at : at + length])
            samples = samples[: target.shape[0], : target.shape[1]]
            if samples.shape != (*target.shape[:2], layout.samples):
                raise CorruptImage(f"{parts.name(place)} is damaged: it does not hold its pixels")
            target[...] = as_pixels(samples, layout, convert)
        return pixels if scale == 1 else _fitted(pixels, header.frame, scale)

    def page_metadata(self, data: bytes, page: int) -> Metadata:
        """The metadata of a page."""
        found = tiffpages.pages(whole(data))
        if len(found) == 1 and found[0].at == beginning(data)[2]:
            return tiffmetadata.read(data)
        return tiffmetadata.read(tiffpages.file_of(data, found[page]))

    def metadata(self, data: bytes) -> Metadata:
        return self.page_metadata(data, 0)

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        """Encode strips with deflate at level 1. Integers are stored as differences to the pixel on the left."""
        if is_large(image):
            frame = replace(Frame.of(image), extra=encoding.extra)
            return self.in_pieces(frame, encoding, metadata).encode(image)
        order, described = tiffmetadata.tags_of(metadata)
        height, width = image.shape[:2]
        channels = 1 if image.ndim == 2 else image.shape[2]
        shown = channels - encoding.extra
        rows = max(1, _STRIP // (width * channels * image.itemsize))
        strips = [_packed(image[y : y + rows], order) for y in range(0, height, rows)]
        ends = np.cumsum([8, *(len(strip) + len(strip) % 2 for strip in strips)]).tolist()
        tags: Tree = {
            WIDTH: longs(order, width),
            HEIGHT: longs(order, height),
            BITS: shorts(order, *[8 * image.itemsize] * channels),
            PACKING: shorts(order, _DEFLATE),
            COLOURS: shorts(order, RGB if shown > 2 else BLACK_IS_ZERO),
            STRIPS: longs(order, *ends[:-1]),
            ORIENTATION: shorts(order, 1),
            SAMPLES: shorts(order, channels),
            ROWS: longs(order, rows),
            STRIP_BYTES: longs(order, *map(len, strips)),
            PLANES: shorts(order, 1),
            PREDICTOR: shorts(order, 1 if image.dtype == np.float32 else 2),
            SAMPLE_FORMAT: shorts(order, *[3 if image.dtype == np.float32 else 1] * channels),
        }
        extra = [UNASSOCIATED] * (shown in (2, 4)) + [0] * encoding.extra
        if extra:
            tags[EXTRA] = shorts(order, *extra)
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
                else tiff.Tag(code, value.kind, value.data)
                for code, value in sorted(branch.items())
                if value
            )

        order, described = tiffmetadata.tags_of(metadata)
        return tiff.Encoder(frame, tags=tags(in_order(described, order, "little")))


def _layout_at(data: bytes, header: Header, scale: int) -> Layout:
    """The layout of a page, or of a smaller copy of it."""
    page = tiffpages.pages(whole(data))[header.page]
    layout = layout_of(tiffpages.view_of(whole(data), page))
    if scale == 1:
        return layout
    return layout_of(tiffpages.view_of(data, _copies(data, page, layout)[scale]))


def _copies(data: Data, page: Page, layout: Layout) -> dict[int, Page]:
    """The smaller copies of a page that have the same kind of pixels, by the divisor of its size."""
    found: dict[int, Page] = {}
    for copy in page.copies:
        try:
            other = layout_of(tiffpages.view_of(data, copy))
        except UnsupportedImage:
            continue
        scale = round(layout.frame.width / max(1, other.frame.width))
        if scale < 2:
            continue
        frame = replace(other.frame, width=layout.frame.width, height=layout.frame.height)
        sides = zip(_size(layout.frame, scale), (other.frame.width, other.frame.height), strict=True)
        is_near = all(abs(wanted - side) <= 1 for wanted, side in sides)
        if is_near and frame == layout.frame and other.colours == layout.colours:
            found.setdefault(scale, copy)
    return found


def _size(frame: Frame, scale: int) -> tuple[int, int]:
    return -(-frame.width // scale), -(-frame.height // scale)


def _fitted(pixels: Pixels, frame: Frame, scale: int) -> Pixels:
    """A smaller copy with rounded sides: programs round up or down."""
    width, height = _size(frame, scale)
    missing = (max(0, height - pixels.shape[0]), max(0, width - pixels.shape[1]))
    if any(missing):
        pixels = np.pad(pixels, [(0, count) for count in (*missing, 0)[: pixels.ndim]], mode="edge")
    return pixels[:height, :width]


def _profile(head: Data, layout: Layout) -> bytes:
    """The colour profile; empty if it is missing, too large, or outside the file.

    Raises:
        MoreNeeded: it is behind the given bytes.
    """
    entry = layout.entries.get(PROFILE)
    if entry is None or not 0 < entry.size <= MOST_AT_ONCE:
        return b""
    if entry.at + entry.size <= len(head):
        return head[entry.at : entry.at + entry.size]
    if isinstance(head, View):
        return b""
    raise MoreNeeded


def _packed(rows: Pixels, order: Order) -> bytes:
    """A strip compressed with deflate. Integers are differences along the rows."""
    samples = rows.copy()
    if rows.dtype != np.float32:
        np.subtract(rows[:, 1:], rows[:, :-1], out=samples[:, 1:])
    swapped = samples.astype(samples.dtype.newbyteorder("<" if order == "little" else ">"), copy=False)
    return zlib.compress(swapped.tobytes(), 1)
