"""ICO and CUR: icons and cursors of Windows, of which the largest picture is read. They are not written.

A picture is a PNG, or a BMP without its file header, with a mask of transparent pixels below it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from imageloom.codecs.bits import MOST_AT_ONCE, Data, MoreNeeded, View, number
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.codecs.png import Png
from imageloom.errors import CorruptImage, LimitExceeded, UnsupportedImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing

_PNG = b"\x89PNG\r\n\x1a\n"
_HEAD = 40
"""Length of a BMP's information header."""
_BITS = (1, 4, 8, 24, 32)
_LARGEST = 1024
"""Maximum width and height of a BMP in an icon. The format means 256."""
_REFUSAL = "icons can be read but not written: choose another --format, such as png"


class _Picture(NamedTuple):
    """A picture of the file."""

    pixels: int
    bits: int
    start: int
    length: int


class Ico:
    format: Format = "ico"
    quality = 0
    encoder_bytes = 0
    written: Format = "png"
    carries: tuple[Thing, ...] = ()
    also_reads: tuple[Thing, ...] = tuple(Png.carries)
    always_drops: tuple[Thing, ...] = ("pages",)

    def header(self, head: Data) -> Header:
        picture = _largest(head)[0]
        if head[picture.start : picture.start + len(_PNG)] == _PNG:
            inside = _png_header(_inside(head, picture))
            return Header("ico", inside.frame, orientation=inside.orientation, colours=inside.colours)
        return Header("ico", _frame(head, picture.start))

    def cannot_hold(self, frame: Frame) -> str | None:
        return _REFUSAL

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        picture = _largest(data)[0]
        inside = _inside(data, picture)
        if inside[: len(_PNG)] == _PNG:
            return Png().decode(inside, _png_header(inside), luma=False, scale=1, damage=damage)
        return _decoded(inside, header.frame)

    def metadata(self, data: bytes) -> Metadata:
        picture, count = _largest(data)
        inside = _inside(data, picture)
        metadata = Png().metadata(inside) if inside[: len(_PNG)] == _PNG else NO_METADATA
        return metadata if count == 1 else replace(metadata, found=tuple(sorted({*metadata.found, "pages"})))

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        raise UnsupportedImage(_REFUSAL)


def _largest(head: Data) -> tuple[_Picture, int]:
    """The largest picture, of several of a size that with the most bits, and the number of pictures."""
    count = number(head, 4, 2, "little")
    if not count:
        raise CorruptImage("the icon has no pictures")
    found = []
    for at in range(6, 6 + 16 * count, 16):
        width, height = (number(head, at + i, 1) or 256 for i in range(2))
        length, start = (number(head, at + i, 4, "little") for i in (8, 12))
        bits = number(head, at + 6, 2, "little") if head[2:3] == b"\1" else 0
        found.append(_Picture(width * height, bits, start, length))
    return max(found, key=lambda one: (one.pixels, one.bits)), count


def _png_header(inside: bytes) -> Header:
    return Png().header(View(lambda at, length: inside[at : at + length], len(inside)))


def _inside(data: Data, picture: _Picture) -> bytes:
    if picture.start + picture.length > len(data):
        raise MoreNeeded
    if picture.length > MOST_AT_ONCE:
        raise LimitExceeded(f"its picture takes {picture.length:,} bytes, over the limit of {MOST_AT_ONCE:,}")
    return bytes(data[picture.start : picture.start + picture.length])


def _frame(data: Data, at: int) -> Frame:
    """The frame of a BMP, whose height is that of the picture and of its mask."""
    length, width, double = (number(data, at + i, 4, "little") for i in (0, 4, 8))
    bits, packing = number(data, at + 14, 2, "little"), number(data, at + 16, 4, "little")
    if length != _HEAD or packing or bits not in _BITS:
        raise UnsupportedImage(f"icons with BMPs of {bits} bits and compression {packing} are not supported")
    if not 0 < width <= _LARGEST or not 0 < double // 2 <= _LARGEST:
        raise CorruptImage(f"the icon's BMP has {width}x{double // 2} pixels")
    return Frame(width, double // 2, 4)


def _decoded(bmp: bytes, frame: Frame) -> Pixels:
    """The pixels of a BMP, with the alpha of 32 bits, or that of its mask if they have none."""
    bits, used = number(bmp, 14, 2, "little"), number(bmp, 32, 4, "little")
    entries = (used or 1 << bits) if bits <= 8 else 0
    if entries > 1 << bits:
        raise CorruptImage("the icon's palette is too long")
    at = _HEAD + 4 * entries
    rows, at = _rows(bmp, at, frame, bits)
    if bits <= 8:
        palette = np.frombuffer(bmp, np.uint8, 4 * entries, _HEAD).reshape(entries, 4)
        indices = np.unpackbits(rows, axis=1).reshape(frame.height, -1, bits)
        values = np.packbits(np.pad(indices, ((0, 0), (0, 0), (8 - bits, 0))), axis=2)[:, : frame.width, 0]
        if int(values.max()) >= entries:
            raise CorruptImage("the icon has colours that are not in its palette")
        colours = palette[values][:, :, 2::-1]
    else:
        samples = rows[:, : frame.width * bits // 8].reshape(frame.height, frame.width, bits // 8)
        colours = samples[:, :, 2::-1]
        if bits == 32 and samples[:, :, 3].any():
            return np.ascontiguousarray(np.dstack((colours, samples[:, :, 3]))[::-1])
    mask = np.unpackbits(_rows(bmp, at, frame, 1)[0], axis=1)[:, : frame.width]
    return np.ascontiguousarray(np.dstack((colours, 255 * (1 - mask)))[::-1])


def _rows(bmp: bytes, at: int, frame: Frame, bits: int) -> tuple[Pixels, int]:
    """Rows of so many bits per pixel, each of whole words of 32 bits, and the position behind them."""
    step = -(-frame.width * bits // 32) * 4
    end = at + step * frame.height
    if end > len(bmp):
        raise CorruptImage("the icon is cut off")
    return np.frombuffer(bmp, np.uint8, step * frame.height, at).reshape(frame.height, step), end
