"""GIF with one image, read with Pillow. GIF is not written: outputs are PNG by default."""

from __future__ import annotations

from typing import NamedTuple

from imageloom.codecs import pillow
from imageloom.codecs.bits import Data, MoreNeeded, number
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing

_MOST_BLOCKS = 1 << 21
"""Maximum number of sub-blocks in a file; most have 255 bytes."""
_PIECE = 64 << 10


class Gif:
    format: Format = "gif"
    quality = 0
    encoder_bytes = 0
    written: Format = "png"
    carries: tuple[Thing, ...] = ()

    def header(self, head: Data) -> Header:
        """Parse all blocks (GIF89a, 17 to 27): a second image means an animation."""
        picture = _picture(head)
        width, height = number(head, 6, 2, "little"), number(head, 8, 2, "little")
        whole = picture.box == (0, 0, width, height)
        return Header("gif", Frame(width, height, 3 if whole and not picture.is_clear else 4))

    def cannot_hold(self, frame: Frame) -> str | None:
        return "GIF can be read but not written: choose another --format, such as png"

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        """Decode to RGB, with alpha if a colour is transparent or the image does not fill the canvas."""
        picture = _picture(data)
        plain = b"".join(data[block] for block in picture.blocks) + b"\x3b"
        pixels = pillow.decoded(pillow.opened(plain, "Gif"), header.frame)
        if header.frame.channels == 3:
            return pixels
        x0, y0, x1, y1 = picture.box
        framed: Pixels = pixels * 0
        framed[y0:y1, x0:x1] = pixels[y0:y1, x0:x1]
        return framed

    def metadata(self, data: bytes) -> Metadata:
        return NO_METADATA

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        raise UnsupportedImage("GIF can be read but not written: choose another --format, such as png")


class _Picture(NamedTuple):
    """The only image of a file."""

    box: tuple[int, int, int, int]
    is_clear: bool
    """Whether one of its colours is transparent."""
    blocks: tuple[slice, ...]
    """The blocks that determine its pixels: canvas and colour table, control block and image."""


def _picture(data: Data) -> _Picture:
    """The image of a file.

    Raises:
        UnsupportedImage: there are several images, or too many blocks.
        CorruptImage: there is no image, or it extends beyond the canvas.
    """
    at = 13 + _table(number(data, 10, 1))
    screen, control, picture = slice(0, at), slice(0), slice(0)
    box, clear = None, False
    steps = _MOST_BLOCKS
    while True:
        start, block = at, number(data, at, 1)
        if block == 0x3B:
            break
        if block == 0x21:
            kind = number(data, at + 1, 1)
            at, steps = _behind(data, at + 2, steps)
            if kind == 0xF9 and box is None:
                clear = bool(number(data, start + 3, 1) & 1)
                control = slice(start, at)
        elif block == 0x2C:
            if box is not None:
                raise UnsupportedImage("animated GIF is not supported")
            x, y, width, height = (number(data, at + 1 + 2 * i, 2, "little") for i in range(4))
            box = (x, y, x + width, y + height)
            at, steps = _behind(data, at + 11 + _table(number(data, at + 9, 1)), steps)
            picture = slice(start, at)
        else:
            raise CorruptImage(f"the GIF is damaged at byte {at}")
    if box is None:
        raise CorruptImage("the GIF has no image")
    if box[2] > number(data, 6, 2, "little") or box[3] > number(data, 8, 2, "little"):
        raise CorruptImage("the GIF's image extends beyond its canvas")
    return _Picture(box, clear, (screen, control, picture))


def _table(flags: int) -> int:
    """The size of the colour table in bytes, from the flags."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _behind(data: Data, at: int, steps: int) -> tuple[int, int]:
    """The end of a chain of sub-blocks, and the remaining number of steps."""
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
            return at, steps
    raise MoreNeeded
