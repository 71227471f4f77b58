"""The layout of a TIFF's pixels, from the tags of its first directory, and what its other directories hold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from imageloom.codecs.bits import MOST_AT_ONCE, Data, MoreNeeded, View, number
from imageloom.codecs.tags import SHORT, Entry, Order, directory, next_directory, numbers, order_of
from imageloom.codecs.tiffpages import is_aperio
from imageloom.codecs.tiffparts import (
    BITS,
    COLOURS,
    DEPTHS,
    EXTRA,
    HEIGHT,
    JPEG,
    MOST_PARTS,
    MOST_SAMPLES,
    PACKING,
    SAMPLE_FORMAT,
    SAMPLES,
    WIDTH,
    Parts,
    integers,
)
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import DType, Frame, Pixels, Thing

DESCRIPTION, ORIENTATION, PALETTE, PROFILE = 270, 274, 320, 34675
_KIND, _OLD_KIND, _TILES, _SUBDIRECTORIES, _STACK = 254, 255, 322, 330, 33629
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTED, CMYK, YCBCR, CIELAB, ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
CONVERTED = {CMYK: "CMYK", CIELAB: "CIELab", ICCLAB: "ICCLab"}
"""Colours that are decoded to RGB."""
_INKS = 332
"""The tag for the kind of inks: 1 is CMYK."""
_REFUSED_COLOURS = {4: "mask", 10: "ITULab", 32803: "raw", 34892: "raw"}
_PACKINGS = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32946: "deflate", 32773: "PackBits", 50000: "zstd"}
_UNPACKED = {
    2: "CCITT",
    3: "CCITT G3",
    4: "CCITT G4",
    6: "old JPEG",
    34887: "LERC",
    34925: "LZMA",
    50001: "WebP",
}
ASSOCIATED, UNASSOCIATED = 1, 2
"""ExtraSamples: an alpha that the colours are multiplied by, and one that they are not."""
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
"""SampleFormat."""
_MOST_DIRECTORIES = 64
"""Maximum number of directories that are looked at."""
_MOST_DESCRIPTION = 1 << 16
_REDUCED, _MASK = 1, 4
"""Bits of NewSubfileType."""


class Layout(NamedTuple):
    """The layout of the pixels."""

    frame: Frame
    colours: int
    bits: int
    kind: int
    """SampleFormat."""
    samples: int
    alpha: int
    """ExtraSamples of the alpha; 0 without alpha."""
    channels: tuple[int, ...]
    """The numbers of the samples in the order of the decoded channels: colours, alpha, extra samples."""
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

    @property
    def is_plain(self) -> bool:
        """Whether the samples in the file are the pixels, and no part of them has another meaning."""
        return (
            self.colours in (BLACK_IS_ZERO, RGB)
            and self.bits >= 8
            and len(self.channels) == (3 if self.colours == RGB else 1)
            and (self.frame.dtype != "float32" or (self.kind, self.bits) == (_FLOAT, 32))
        )


def beginning(data: Data) -> tuple[Order, bool, int]:
    """The byte order, whether it is a BigTIFF, and the offset of the first directory."""
    order = order_of(data)
    big = b"+" in data[2:4]
    return order, big, number(data, 8 if big else 4, 8 if big else 4, order)


def whole(data: bytes) -> View:
    """The bytes of a whole file: a tag behind its end is damaged, and does not need more bytes."""
    return View(lambda at, length: data[at : at + length], len(data))


def layout_of(data: Data) -> Layout:
    """The layout from the first directory, if it is supported.

    Raises:
        MoreNeeded: the directory is behind the end of the data.
        UnsupportedImage: the kind of pixels is not supported, or there are several pictures in one directory.
        CorruptImage: tags are missing.
    """
    order, big, at = beginning(data)
    entries = directory(data, at, order, big).entries

    def get(tag: int, default: int | None = None) -> tuple[int, ...]:
        return integers(data, entries, order, tag, default)

    width, height, colours, samples = (
        get(WIDTH)[0],
        get(HEIGHT)[0],
        get(COLOURS, BLACK_IS_ZERO)[0],
        get(SAMPLES, 1)[0],
    )
    packing = get(PACKING, 1)[0]
    if colours in _REFUSED_COLOURS:
        raise UnsupportedImage(f"{_REFUSED_COLOURS[colours]} TIFF is not supported")
    if colours > PALETTED and colours not in CONVERTED and not (colours == YCBCR and packing == JPEG):
        raise UnsupportedImage(f"TIFF of colour kind {colours} and compression {packing} is not supported")
    if packing not in _PACKINGS:
        known = ", ".join(dict.fromkeys(_PACKINGS.values()))
        name = f" ({_UNPACKED[packing]})" if packing in _UNPACKED else ""
        raise UnsupportedImage(f"TIFF of compression {packing}{name} is not supported; these are: {known}")
    base = {RGB: 3, CMYK: 4, YCBCR: 3, CIELAB: 3, ICCLAB: 3}.get(colours, 1)
    if not base <= samples <= MOST_SAMPLES or (samples > base and colours in (PALETTED, YCBCR)):
        raise UnsupportedImage(f"TIFF of {samples} channels and colour kind {colours} is not supported")
    bits, kinds = set(get(BITS, 1)), set(get(SAMPLE_FORMAT, 1))
    if len(bits) > 1 or len(kinds) > 1:
        raise UnsupportedImage("TIFF of channels that differ in depth is not supported")
    depth, kind = bits.pop(), kinds.pop()
    if colours in CONVERTED:
        if depth not in (8, 16) or kind > _SIGNED or samples != base or get(_INKS, 1)[0] != 1:
            raise UnsupportedImage(
                f"TIFF of {CONVERTED[colours]} with {samples} samples of {depth} bits is not supported"
            )
        kind = _UNSIGNED
    dtype = _dtype(depth, kind, samples, colours)
    said = list(get(EXTRA, 0))[: samples - base]
    alpha = next((i for i, one in enumerate(said) if one in (ASSOCIATED, UNASSOCIATED)), None)
    extra = [i for i in range(samples - base) if i != alpha]
    placed = [*([] if alpha is None else [alpha]), *extra]
    channels = (*range(base), *(base + i for i in placed))
    frame = Frame(width, height, 3 if colours in (PALETTED, CMYK) else samples, dtype, len(extra))
    turned = get(ORIENTATION, 1)[0]
    _refuse_stack(data, entries, order, width * height * samples)
    return Layout(
        frame,
        colours,
        depth,
        kind,
        samples,
        0 if alpha is None else said[alpha],
        channels,
        turned if 1 <= turned <= 8 else 1,
        order,
        entries,
    )


def _dtype(bits: int, kind: int, samples: int, colours: int) -> DType:
    """The type of the decoded samples. Signed integers and half floats become floats, which hold them exactly."""
    if colours == PALETTED:
        if kind == _UNSIGNED and bits in (1, 2, 4, 8):
            return "uint8"
    elif kind == _UNSIGNED and (bits == 8 or (samples == 1 and bits in (1, 2, 4))):
        return "uint8"
    elif kind == _UNSIGNED and bits == 16:
        return "uint16"
    elif (kind == _FLOAT and bits in (16, 32)) or (
        kind == _SIGNED and bits in (8, 16) and colours != WHITE_IS_ZERO
    ):
        return "float32"
    what = {1: "unsigned", 2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}.get(kind, "unknown")
    raise UnsupportedImage(f"TIFF of {bits} bits, {what}, is not supported")


def _refuse_stack(data: Data, entries: dict[int, Entry], order: Order, samples: int) -> None:
    """Refuse a file that has several pictures, or a volume, in one directory.

    Raises:
        UnsupportedImage: it does.
    """
    count = max(integers(data, entries, order, tag, 1)[0] for tag in DEPTHS)
    if _STACK in entries:
        count = max(count, entries[_STACK].length)
    text = description(data, entries)
    if text.startswith(b"ImageJ="):
        found = re.search(rb"\nimages=(\d{1,9})", text)
        count = max(count, int(found[1]) if found else 1)
    elif text.startswith(b'{"shape"'):
        shape = shape_in(text)
        count = max(count, int(np.prod(shape, dtype=object)) // samples if shape and samples else 1)
    if count > 1:
        raise UnsupportedImage(f"TIFF of several pages ({count}, in one directory) is not supported")


def description(data: Data, entries: dict[int, Entry]) -> bytes:
    """The beginning of the description, without the zero bytes at its end; empty if there is none."""
    entry = entries.get(DESCRIPTION)
    if entry is None or entry.kind != 2:
        return b""
    end = entry.at + min(entry.length, _MOST_DESCRIPTION)
    if end > len(data) and not isinstance(data, View):
        raise MoreNeeded  # these may be the first bytes of the file only
    return data[entry.at : end].rstrip(b"\0")


def shape_in(text: bytes) -> tuple[int, ...]:
    """The shape that tifffile notes in a description; empty if it is invalid."""
    try:
        shape = json.loads(text)["shape"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    is_shape = isinstance(shape, list) and all(type(side) is int and side > 0 for side in shape)
    return tuple(shape) if is_shape else ()


def others_of(data: Data) -> frozenset[Thing]:
    """What other directories than the first one hold: pages, smaller copies of the picture, masks, and pictures of
    a slide's label.

    The chain ends where it is damaged: behind the end of the file, or at a directory that it already had.

    Raises:
        UnsupportedImage: there are too many directories.
    """
    order, big, at = beginning(data)
    entries = directory(data, at, order, big).entries
    found: set[Thing] = set()
    below = entries.get(_SUBDIRECTORIES)
    waiting = list(numbers(data, below, order)) if below and below.length <= _MOST_DIRECTORIES else []
    following = next_directory(data, at, order, big)
    is_slide = is_aperio(data, entries)
    seen = {at}
    while waiting or following:
        is_below = bool(waiting)
        place = waiting.pop() if is_below else following
        if place in seen:
            return frozenset({*found, "damaged metadata"})
        seen.add(place)
        try:
            other, more, _ = directory(data, place, order, big)
        except (MoreNeeded, CorruptImage):
            if not isinstance(data, View):
                raise MoreNeeded from None
            return frozenset({*found, "damaged metadata"})
        following = following if is_below else more
        kind = _subfile(data, other, order)
        if is_slide and _TILES not in other:
            found.add("thumbnail" if len(seen) == 2 else "auxiliary images")
        elif is_slide:
            continue
        elif kind & _MASK:
            found.add("mask")
        elif kind & _REDUCED:
            found.add("thumbnail")
        else:
            found.add("pages")
        if len(seen) > _MOST_DIRECTORIES:
            raise UnsupportedImage(f"TIFF of more than {_MOST_DIRECTORIES} directories is not supported")
    return frozenset(found)


def _subfile(data: Data, entries: dict[int, Entry], order: Order) -> int:
    """NewSubfileType, also from its predecessor SubfileType."""
    if _KIND in entries:
        return integers(data, entries, order, _KIND, 0)[0]
    return _REDUCED if integers(data, entries, order, _OLD_KIND, 0)[0] == 2 else 0


Converter = Callable[[Pixels], Pixels]
"""A function from samples (height, width, samples) to pixels."""


def converter_of(data: Data, layout: Layout) -> Converter | None:
    """How samples become colours: by a palette, or from inks or CIELab; None if they are colours."""
    if layout.colours == PALETTED:
        palette = _palette(data, layout)
        return lambda samples: palette[samples[:, :, 0].astype(np.uint8)]
    if layout.colours not in CONVERTED:
        return None
    from imageloom.colours import inks  # few files need it

    if layout.colours != CMYK:
        return lambda samples: inks.lab_to_srgb(samples, layout.colours == CIELAB)
    entry = layout.entries.get(PROFILE)
    icc = data[entry.at : entry.at + entry.size] if entry and entry.size <= MOST_AT_ONCE else b""
    return lambda samples: inks.cmyk_to_srgb(samples, icc)


def _palette(data: Data, layout: Layout) -> Pixels:
    """The palette of an image, as rows of RGB.

    Its values have 16 bits. If none is above 255, they are taken as 8 bits: some programs write them so.
    """
    entry, length = layout.entries.get(PALETTE), 3 << layout.bits
    if entry is None or entry.kind != SHORT or entry.length < length or entry.at + 2 * length > len(data):
        raise CorruptImage("the TIFF has no palette")
    read = data[entry.at : entry.at + 2 * length]
    values = np.frombuffer(read, "<u2" if layout.order == "little" else ">u2", length)
    return (values >> (8 if values.max() > 255 else 0)).astype(np.uint8).reshape(3, -1).T


def as_pixels(samples: Pixels, layout: Layout, convert: Converter | None) -> Pixels:
    """Samples (height, width, samples) as they are in the file, as pixels of the layout's frame."""
    if convert is not None:
        return convert(samples.astype(layout.frame.dtype, copy=False))
    frame = layout.frame
    pixels = samples.astype(frame.dtype, copy=False)
    if layout.bits < 8:
        pixels = pixels * np.uint8(255 // ((1 << layout.bits) - 1))
    if layout.channels != tuple(range(layout.samples)):
        pixels = pixels[:, :, layout.channels]
    if layout.alpha == ASSOCIATED:
        shown = frame.channels - frame.extra
        divided = divided_by_alpha(pixels[:, :, :shown])
        pixels = np.dstack((divided, pixels[:, :, shown:])) if frame.extra else divided
    if layout.colours == WHITE_IS_ZERO:
        top = 1.0 if frame.dtype == "float32" else np.iinfo(frame.dtype).max
        pixels = pixels.copy()
        pixels[:, :, 0] = np.asarray(top, pixels.dtype) - pixels[:, :, 0]
    return pixels[:, :, 0] if frame.channels == 1 else pixels


def divided_by_alpha(pixels: Pixels) -> Pixels:
    """Undo the multiplication of colours by their alpha, as far as possible."""
    is_float = pixels.dtype == np.float32
    top = 1.0 if is_float else float(np.iinfo(pixels.dtype).max)
    alpha = pixels[:, :, -1:].astype(np.float64)
    share = np.divide(top, alpha, out=np.zeros_like(alpha), where=alpha > 0)
    colours = pixels[:, :, :-1] * share
    if not is_float:
        colours = np.rint(np.minimum(colours, top))
    return np.concatenate((colours.astype(pixels.dtype), pixels[:, :, -1:]), axis=2)
