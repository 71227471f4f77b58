"""GIF of one picture, read by Pillow. GIF is not written: outputs are PNG where no format is asked for."""

from __future__ import annotations

from imageloom.codecs import pillow
from imageloom.codecs.bits import MoreNeeded, number
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import NO_METADATA, Format, Frame, Header, Metadata, Pixels


class Gif:
    format: Format = "gif"
    quality = 0
    encoder_bytes = 0
    written: Format = "png"
    carries: tuple[str, ...] = ()

    def header(self, head: bytes) -> Header:
        """All blocks (GIF89a, 17 to 27): a second picture makes it an animation."""
        box, clear = _picture(head)
        width, height = number(head, 6, 2, "little"), number(head, 8, 2, "little")
        whole = box == (0, 0, width, height)
        return Header("gif", Frame(width, height, 3 if whole and not clear else 4))

    def cannot_hold(self, frame: Frame) -> str | None:
        return "GIF is read, not written: choose --format png"

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int) -> Pixels:
        """RGB; with alpha where a colour is transparent or the picture does not fill the screen."""
        pixels = pillow.decoded(pillow.opened(data, "Gif"), header.frame)
        if header.frame.channels == 3:
            return pixels
        (x0, y0, x1, y1), _ = _picture(data)
        framed: Pixels = pixels * 0
        framed[y0:y1, x0:x1] = pixels[y0:y1, x0:x1]
        return framed

    def metadata(self, data: bytes) -> Metadata:
        return NO_METADATA

    def encode(self, image: Pixels, quality: int, metadata: Metadata = NO_METADATA) -> bytes:
        raise UnsupportedImage("GIF is read, not written: choose --format png")


def _picture(data: bytes) -> tuple[tuple[int, int, int, int], bool]:
    """The box of the only picture, and whether one of its colours is transparent.

    Raises:
        UnsupportedImage: there are more pictures.
        CorruptImage: there is none, or it lies outside of the screen.
    """
    at = 13 + _table(number(data, 10, 1))
    box, clear = None, False
    while True:
        block = number(data, at, 1)
        if block == 0x3B:
            break
        if block == 0x21:
            if number(data, at + 1, 1) == 0xF9 and box is None:
                clear = bool(number(data, at + 3, 1) & 1)
            at = _behind(data, at + 2)
        elif block == 0x2C:
            if box is not None:
                raise UnsupportedImage("animated GIF is not supported")
            x, y, width, height = (number(data, at + 1 + 2 * i, 2, "little") for i in range(4))
            box = (x, y, x + width, y + height)
            at = _behind(data, at + 11 + _table(number(data, at + 9, 1)))
        else:
            raise CorruptImage(f"the GIF is damaged at byte {at}")
    if box is None:
        raise CorruptImage("the GIF has no picture")
    if box[2] > number(data, 6, 2, "little") or box[3] > number(data, 8, 2, "little"):
        raise CorruptImage("the GIF's picture lies outside of its screen")
    return box, clear


def _table(flags: int) -> int:
    """Bytes of the colour table that the flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _behind(data: bytes, at: int) -> int:
    """Where a chain of sub-blocks ends."""
    while at < len(data):
        length = data[at]
        at += 1 + length
        if not length:
            return at
    raise MoreNeeded
