"""GIF, read with Pillow: the first frame. GIF is not written: outputs are PNG by default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple, cast

from imageloom.codecs import pillow
from imageloom.codecs.bits import MOST_AT_ONCE, Data, MoreNeeded, block, number
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Density, Metadata, Text
from imageloom.codecs.stated import colours_of
from imageloom.errors import CorruptImage, LimitExceeded, UnsupportedImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing

_MOST_BLOCKS = 1 << 21
"""Maximum number of sub-blocks in a file; most have 255 bytes."""
_MOST_COMMENTS = 10_000
_PIECE = 64 << 10
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_CONTROL, _COMMENT, _APPLICATION = 0xF9, 0xFE, 0xFF
_LOOPS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")
_XMP, _ICC = b"XMP DataXMP", b"ICCRGBG1012"
_XMP_END = 258
"""Size of the bytes behind an XMP packet, which let readers of sub-blocks find the end."""
_SQUARE = (0, 49)
"""The aspect ratios that mean square pixels: not stated, or 1."""


class Gif:
    format: Format = "gif"
    quality = 0
    encoder_bytes = 0
    written: Format = "png"
    carries: tuple[Thing, ...] = ()
    also_reads: tuple[Thing, ...] = ("XMP", "colour profile", "comment", "density")
    always_drops: tuple[Thing, ...] = ("animation", "private metadata")

    def header(self, head: Data) -> Header:
        """Parse the blocks up to the first image (GIF89a, 17 to 20)."""
        picture = _picture(head)
        whole = picture.box == (0, 0, *picture.canvas)
        channels = 3 if whole and not picture.is_clear else 4
        stated = colours_of(Metadata(icc=picture.icc), channels)
        return Header("gif", Frame(*picture.canvas, channels), colours=stated)

    def cannot_hold(self, frame: Frame) -> str | None:
        return "GIF can be read but not written: choose another --format, such as png"

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        """Decode to RGB, with alpha if a colour is transparent or the image does not fill the canvas."""
        picture = _picture(data)
        if picture.has_stray:
            damage.repaired("there are stray bytes before its image")
        _, end = _chain(data, picture.pixels, _MOST_BLOCKS)
        if data[end : end + 1] not in (b"\x21", b"\x2c", b"\x3b"):
            damage.repaired("its end is missing or damaged")
        width, height = picture.canvas
        screen = (
            data[:6] + width.to_bytes(2, "little") + height.to_bytes(2, "little") + data[10 : picture.start]
        )
        parts = (screen, data[picture.control], data[picture.place : end], bytes((_TRAILER,)))
        pixels = pillow.decoded(pillow.opened(b"".join(parts), "Gif"), header.frame)
        if header.frame.channels == 3:
            return pixels
        x0, y0, x1, y1 = picture.box
        framed: Pixels = pixels * 0
        framed[y0:y1, x0:x1] = pixels[y0:y1, x0:x1]
        return framed

    def metadata(self, data: bytes) -> Metadata:
        images, texts, applications = 0, list[Text](), dict[bytes, bytes]()
        found: set[Thing] = set()
        with suppress(MoreNeeded):
            for kind, start, end in _blocks(data):
                if kind == _IMAGE:
                    images += 1
                elif kind == _COMMENT and len(texts) >= _MOST_COMMENTS:
                    raise LimitExceeded(f"it has more than {_MOST_COMMENTS:,} comments (--metadata strip)")
                elif kind == _COMMENT:
                    body = _joined(data, start + 2, end)
                    texts.append(Text("Comment", _text(body)))
                elif kind == _APPLICATION:
                    name = data[start + 3 : start + 14]
                    if name in (_XMP, _ICC) and name not in applications:
                        raw = block(data, start + 14, end - start - 14, "metadata")
                        is_xmp = name == _XMP
                        applications[name] = raw[:-_XMP_END] if is_xmp else _joined(data, start + 14, end)
                    elif name not in _LOOPS:
                        found.add("private metadata")
                elif kind != _CONTROL:
                    found.add("private metadata")
        if images > 1:
            found.add("animation")
        aspect = number(data, 12, 1)
        return Metadata(
            xmp=applications.get(_XMP, b""),
            icc=applications.get(_ICC, b""),
            density=None if aspect in _SQUARE else Density(64, aspect + 15, "none"),
            texts=tuple(texts),
            found=tuple(sorted(found)),
        )

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        raise UnsupportedImage("GIF can be read but not written: choose another --format, such as png")


class _Picture(NamedTuple):
    """The first image of a file."""

    canvas: tuple[int, int]
    """Its width and height. As in other readers, it grows to hold the image."""
    box: tuple[int, int, int, int]
    is_clear: bool
    """Whether one of its colours is transparent."""
    start: int
    """Where the blocks begin, after the canvas and the colour table."""
    control: slice
    """The control block of the image."""
    place: int
    """Where the image begins."""
    pixels: int
    """Where its pixels begin."""
    has_stray: bool
    icc: bytes
    """The profile before the image."""


def _picture(data: Data) -> _Picture:
    """The first image of a file.

    Raises:
        UnsupportedImage: there are too many blocks.
        CorruptImage: there is no image.
    """
    start = at = _first(data)
    control, icc = slice(0), b""
    for kind, place, end in _blocks(data, only_one=True):
        has_stray = place > at
        if kind == _APPLICATION and data[place + 3 : place + 14] == _ICC and end - place <= MOST_AT_ONCE:
            icc = icc or _joined(data, place + 14, end)
        elif kind == _CONTROL:
            control = slice(place, end)
        elif kind == _IMAGE:
            x, y, width, height = (number(data, place + 1 + 2 * i, 2, "little") for i in range(4))
            canvas = (
                max(x + width, number(data, 6, 2, "little")),
                max(y + height, number(data, 8, 2, "little")),
            )
            clear = control.stop > 0 and bool(number(data, control.start + 3, 1) & 1)
            return _Picture(
                canvas, (x, y, x + width, y + height), clear, start, control, place, end, has_stray, icc
            )
        at = end
    raise CorruptImage("the GIF has no image")


def _first(data: Data) -> int:
    return 13 + _table(number(data, 10, 1))


def _blocks(data: Data, *, only_one: bool = False) -> Iterator[tuple[int, int, int]]:
    """Kind, start and end of each block up to the trailer. Stray bytes between blocks are skipped.

    Args:
        only_one: stop at the first image, whose end is then the start of its pixels.

    Raises:
        MoreNeeded: the data ends too early.
        UnsupportedImage: there are too many blocks.
    """
    at, steps = _first(data), _MOST_BLOCKS
    while (first := number(data, at, 1)) != _TRAILER:
        start = at
        if first == _EXTENSION:
            kind = number(data, at + 1, 1)
            steps, at = _chain(data, at + 2, steps)
            yield kind, start, at
        elif first == _IMAGE:
            at += 11 + _table(number(data, at + 9, 1))
            if only_one:
                yield _IMAGE, start, at
                return
            steps, at = _chain(data, at, steps)
            yield _IMAGE, start, at
        else:
            at += 1
            steps -= 1
        if steps < 0:
            raise UnsupportedImage(f"GIF with more than {_MOST_BLOCKS:,} blocks is not supported")


def _table(flags: int) -> int:
    """The size of the colour table in bytes, from the flags."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _chain(data: Data, at: int, steps: int) -> tuple[int, int]:
    """The remaining number of steps after a chain of sub-blocks, and its end."""
    while piece := data[at : at + _PIECE]:
        here, length = 0, 1
        while here < len(piece) and length:
            length = piece[here]
            here += 1 + length
            steps -= 1
        at += here
        if steps < 0:
            raise UnsupportedImage(f"GIF with more than {_MOST_BLOCKS:,} blocks is not supported")
        if not length:
            return steps, at
    raise MoreNeeded


def _joined(data: Data, at: int, end: int) -> bytes:
    """The contents of a chain of sub-blocks."""
    raw = block(cast("bytes", data), at, end - at, "metadata")
    parts, here = [], 0
    while here < len(raw) and raw[here]:
        parts.append(raw[here + 1 : here + 1 + raw[here]])
        here += 1 + raw[here]
    return b"".join(parts)


def _text(body: bytes) -> str:
    try:
        return body.decode().rstrip("\0")
    except UnicodeDecodeError:
        return body.decode("latin-1").rstrip("\0")
