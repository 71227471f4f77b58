"""Frames of animations behind the first one, as pages: whole pictures, composed by Pillow, as RGBA."""

from __future__ import annotations

import numpy as np

from imageloom.codecs import pillow
from imageloom.codecs.bits import Data, MoreNeeded, View, number
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import MOST_PAGES, Format, Frame, Header, Pixels

_PLUGINS = {"gif": "Gif", "webp": "WebP"}
_MOST_CHUNKS = 1 << 20
_MOST_BLOCKS = 1 << 18
_PIECE = 64 << 10


def header(head: Data, format: Format, page: int, count: int) -> Header:
    """The header of a frame."""
    if format == "gif":
        width, height = number(head, 6, 2, "little"), number(head, 8, 2, "little")
    else:
        width, height = (1 + number(head, at, 3, "little") for at in (24, 27))
    return Header(format, Frame(width, height, 4), page=page, pages=count)


def decoded(data: bytes, asked: Header) -> Pixels:
    """The pixels of a frame.

    Raises:
        CorruptImage: it cannot be decoded.
    """
    image = pillow.opened(data, _PLUGINS[asked.format])
    try:
        image.seek(asked.page)
    except (EOFError, OSError, ValueError, SyntaxError) as error:
        raise CorruptImage(f"its frame {asked.page + 1} cannot be decoded: {error}") from None
    return np.ascontiguousarray(pillow.decoded(image, asked.frame))


def count_in_webp(head: Data) -> int:
    """The number of frames of a WebP; 1 if it is no animation (RFC 9649, 2.7.1.1)."""
    if head[12:16] != b"VP8X" or not number(head, 20, 1) & 2:
        return 1
    at, frames = 12, 0
    end = 8 + number(head, 4, 4, "little")
    for _ in range(_MOST_CHUNKS):
        if at + 8 > end:
            return max(1, min(frames, MOST_PAGES))
        frames += head[at : at + 4] == b"ANMF"
        length = number(head, at + 4, 4, "little")
        at += 8 + length + length % 2
    raise UnsupportedImage(f"WebP with more than {_MOST_CHUNKS:,} chunks is not supported")


def count_in_gif(head: Data) -> int:
    """The number of frames of a GIF (GIF89a, 18 to 26), among its first 260,000 blocks."""
    at, frames, left = 13 + _table(number(head, 10, 1)), 0, _MOST_BLOCKS
    while left > 0 and frames < MOST_PAGES and not (isinstance(head, View) and at >= len(head)):
        kind = number(head, at, 1)
        if kind == 0x2C:
            frames += 1
            at += 11 + _table(number(head, at + 9, 1))
        elif kind == 0x21:
            at += 2
        else:
            break
        at, left = _behind(head, at, left - 1)
    return max(1, frames)


def _behind(head: Data, at: int, left: int) -> tuple[int, int]:
    """The end of a chain of sub-blocks, and the remaining number of blocks."""
    length = 1
    while length and left > 0:
        piece, here = head[at : at + _PIECE], 0
        if not piece:
            raise MoreNeeded
        while here < len(piece) and length:
            length = piece[here]
            here += 1 + length
            left -= 1
        at += here
    return at, left


def _table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
