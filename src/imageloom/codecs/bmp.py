"""BMP: read with Pillow, but for unusual bit fields; written by this module."""

from __future__ import annotations

import struct

import numpy as np

from imageloom.codecs import pillow
from imageloom.codecs.bits import MOST_AT_ONCE, Data, MoreNeeded, number
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Density, Metadata
from imageloom.codecs.stated import colours_of
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing

_PLAIN, _RLE8, _RLE4, _BITFIELDS, _ALPHA_BITFIELDS = 0, 1, 2, 3, 6
_CORE = 12
"""Length of the oldest header (OS/2), with 16-bit sizes and palette entries of 3 bytes."""
_V4, _V5 = 108, 124
_LENGTHS = (_CORE, 40, 52, 56, 64, _V4, _V5)
"""Lengths of the headers that are in use; 64 is that of OS/2 version 2."""
_EMBEDDED, _LINKED, _CALIBRATED = 0x4D424544, 0x4C494E4B, 0
"""Kinds of colours in a header of version 4 or 5: a profile in the file or elsewhere, or primaries and gamma."""
_INCH = 0.0254
"""In metres."""
_DEFAULT_DENSITY = 2835
"""Pixels per metre if the density is not known: 72 per inch."""
_INSIDE = {4: "a JPEG", 5: "a PNG"}
"""Compressions that mean that the pixels are another file."""


class Bmp:
    format: Format = "bmp"
    quality = 0
    encoder_bytes = 0
    written: Format = "bmp"
    in_process = True
    carries: tuple[Thing, ...] = ("colour profile", "density")
    always_drops: tuple[Thing, ...] = ("colours",)
    gray_in_colour = (1,)

    def header(self, head: Data) -> Header:
        """Parse the information header. A palette with only grays means a gray image."""
        length = number(head, 14, 4, "little")
        if length == _CORE:
            width, height = number(head, 18, 2, "little"), number(head, 20, 2, "little")
            bits, packing = number(head, 24, 2, "little"), _PLAIN
        elif length in _LENGTHS:
            width = number(head, 18, 4, "little")
            height = abs(struct.unpack("<i", number(head, 22, 4, "little").to_bytes(4, "little"))[0])
            bits, packing = number(head, 28, 2, "little"), number(head, 30, 4, "little")
        else:
            raise UnsupportedImage(f"BMP with a header of {length} bytes is not supported")
        if packing in _INSIDE:
            raise UnsupportedImage(f"BMP with {_INSIDE[packing]} inside is not supported")
        if packing not in (_PLAIN, _RLE8, _RLE4, _BITFIELDS, _ALPHA_BITFIELDS):
            raise UnsupportedImage(f"BMP with compression {packing} is not supported")
        if bits not in (1, 4, 8, 16, 24, 32):
            raise UnsupportedImage(f"BMP with {bits} bits per pixel is not supported")
        if bits <= 8:
            channels = 1 if _is_gray(head, length, bits) else 3
        else:
            channels = 4 if _masks(head, length, bits, packing)[3] else 3
        icc = _profile(head, length)
        return Header("bmp", Frame(width, height, channels), colours=colours_of(Metadata(icc=icc), channels))

    def can_state(self, density: Density) -> bool:
        return all(0.5 <= value < 1 << 31 for value in density.per_metre)

    def cannot_hold(self, frame: Frame) -> str | None:
        if frame.dtype != "uint8":
            return f"BMP supports 8 bits, not {frame.dtype}: choose --format png"
        return "BMP does not support gray with alpha: choose --format png" if frame.channels == 2 else None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        length, bits, packing = (
            number(data, 14, 4, "little"),
            number(data, 24 if data[14] == _CORE else 28, 2, "little"),
            _PLAIN if data[14] == _CORE else number(data, 30, 4, "little"),
        )
        if packing in (_BITFIELDS, _ALPHA_BITFIELDS):
            return _fields(data, header.frame, bits, _masks(data, length, bits, packing))
        return pillow.decoded(pillow.opened(data, "Bmp"), header.frame)

    def metadata(self, data: bytes) -> Metadata:
        length = number(data, 14, 4, "little")
        if length < 40:
            return NO_METADATA
        found: set[Thing] = set()
        space = number(data, 70, 4, "little") if length >= _V4 else None
        try:
            icc = _profile(data, length)
        except MoreNeeded:
            icc = b""
        if space in (_EMBEDDED, _LINKED) and not icc:
            found.add("colour profile")
        elif space == _CALIBRATED and any(data[74:122]):
            found.add("colours")
        return Metadata(icc=icc, density=_density(data), found=tuple(sorted(found)))

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        """Encode with bottom-up rows, a palette for gray, and a header of version 4 for alpha, 5 for a profile."""
        height, width = image.shape[:2]
        channels = 1 if image.ndim == 2 else image.shape[2]
        palette = b"".join(bytes((i, i, i, 0)) for i in range(256)) if channels == 1 else b""
        rows = np.zeros((height, -(-width * channels // 4) * 4), np.uint8)
        ordered = image[::-1] if channels == 1 else image[::-1, :, [2, 1, 0, 3][:channels]]
        rows[:, : width * channels] = ordered.reshape(height, -1)
        icc = metadata.icc
        length = _V5 if icc else _V4 if channels == 4 else 40
        start = 14 + length + len(palette)
        head = struct.pack("<2sIII", b"BM", start + rows.size + len(icc), 0, start)
        packing = _BITFIELDS if channels == 4 else _PLAIN
        across, down = _per_metre(metadata.density)
        info = struct.pack(
            "<IiiHHIIiiII", length, width, height, 1, 8 * channels, packing, rows.size, across, down, 0, 0
        )
        if length > 40:
            masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000) if channels == 4 else (0, 0, 0, 0)
            info += struct.pack("<IIII4s", *masks, b"DEBM" if icc else b"BGRs") + bytes(48)
        if icc:
            info += struct.pack("<IIII", 4, start - 14 + rows.size, len(icc), 0)
        return b"".join((head, info, palette, rows.tobytes(), icc))


def _profile(data: Data, length: int) -> bytes:
    """The embedded profile of a file whose information header has this length; empty if there is none.

    Raises:
        MoreNeeded: it is behind the end of the data.
    """
    if length < _V5 or number(data, 70, 4, "little") != _EMBEDDED:
        return b""
    at, size = 14 + number(data, 126, 4, "little"), number(data, 130, 4, "little")
    if size > MOST_AT_ONCE:
        return b""
    if at + size > len(data):
        raise MoreNeeded
    return data[at : at + size]


def _masks(head: Data, length: int, bits: int, packing: int) -> tuple[int, int, int, int]:
    """The bits of red, green, blue and alpha; zeros if they are not stated."""
    if packing not in (_BITFIELDS, _ALPHA_BITFIELDS) or bits not in (16, 32):
        return (0, 0, 0, 0)
    has_alpha = length >= 56 or packing == _ALPHA_BITFIELDS
    red, green, blue = (number(head, 54 + 4 * i, 4, "little") for i in range(3))
    return red, green, blue, number(head, 66, 4, "little") if has_alpha else 0


def _fields(data: bytes, frame: Frame, bits: int, masks: tuple[int, int, int, int]) -> Pixels:
    """Decode pixels whose bits are stated by masks."""
    row = -(-frame.width * bits // 32) * 4
    start = number(data, 10, 4, "little")
    if start + row * frame.height > len(data):
        raise CorruptImage("the BMP is cut off")
    rows = np.frombuffer(data, np.uint8, row * frame.height, start).reshape(frame.height, row)
    values = rows[:, : frame.width * bits // 8].copy().view("<u2" if bits == 16 else "<u4").astype(np.uint32)
    if number(data, 22, 4, "little") < 1 << 31:
        values = values[::-1]
    channels = [_field(values, mask) for mask in masks[: frame.channels]]
    return np.ascontiguousarray(np.stack(channels, axis=2))


def _field(values: Pixels, mask: int) -> Pixels:
    """The bits of a mask, scaled to 8 bits."""
    if mask == 0:
        return np.zeros(values.shape, np.uint8)
    lowest = (mask & -mask).bit_length() - 1
    top = mask >> lowest
    scaled: Pixels = ((values & np.uint32(mask)) >> np.uint32(lowest)).astype(np.uint64) * 255 // top
    return scaled.astype(np.uint8)


def _density(data: bytes) -> Density | None:
    x, y = number(data, 38, 4, "little"), number(data, 42, 4, "little")
    if not (0 < x < 1 << 31 and 0 < y < 1 << 31):
        return None
    return Density(_per_inch(x), _per_inch(y))


def _per_inch(metre: int) -> float:
    """A whole number, if it gives the same number of pixels per metre."""
    inch = round(metre * _INCH)
    return float(inch) if round(inch / _INCH) == metre else metre * _INCH


def _per_metre(density: Density | None) -> tuple[int, int]:
    if density is None:
        return _DEFAULT_DENSITY, _DEFAULT_DENSITY
    x, y = density.per_metre
    return min(round(x), (1 << 31) - 1), min(round(y), (1 << 31) - 1)


def _is_gray(head: Data, length: int, bits: int) -> bool:
    entry = 3 if length == _CORE else 4
    used = 0 if length == _CORE else number(head, 46, 4, "little")
    count = min(used or 1 << bits, 1 << bits)
    number(head, 14 + length + entry * count - 1, 1)
    table = head[14 + length : 14 + length + entry * count]
    colours = np.frombuffer(table, np.uint8).reshape(count, entry)[:, :3]
    return bool((colours == colours[:, :1]).all())
