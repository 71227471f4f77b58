"""Codecs: bytes to pixels and back, one file for each library.

A file is what its bytes say, not its name. A header is read from the first kilobytes; only `decode` touches
pixels. Codecs raise `CorruptImage` and `UnsupportedImage`, whatever their library raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from imageloom.codecs import avif, bmp, gif, jpeg, png, pnm, tiff, webp
from imageloom.codecs.bits import MoreNeeded
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Format, Frame, Header, Metadata, Pixels

HEAD = 16 << 10
"""How many bytes of a file are read at first; most headers end within them."""


class Codec(Protocol):
    """One format."""

    format: Format
    suffixes: tuple[str, ...]
    """Of file names, the usual one first."""
    quality: int
    """What a lossy encoder takes where nothing is asked; 0 for lossless formats."""
    encoder_bytes: int
    """What the encoder holds beside the pixels and the file, in bytes for each pixel, about."""
    written: Format
    """What outputs are where nothing is asked: the same, but for formats that are only read."""
    carries: tuple[str, ...]
    """The kinds of metadata that a file of this format can take along."""

    def sniff(self, head: bytes) -> bool:
        """Whether these first bytes are of this format."""

    def header(self, head: bytes) -> Header:
        """What the first bytes of a file say.

        Raises:
            MoreNeeded: the header goes on behind them.
            CorruptImage, UnsupportedImage: it cannot be used.
        """

    def cannot_hold(self, frame: Frame) -> str | None:
        """Why such pixels cannot be encoded, or None."""

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int) -> Pixels:
        """The pixels of a whole file: its luma alone where asked, at 1/scale of its size."""

    def metadata(self, data: bytes) -> Metadata:
        """What a whole file says of its pixels.

        Raises:
            LimitExceeded: a compressed part of it unfolds to too much.
        """

    def encode(self, image: Pixels, quality: int, metadata: Metadata = ...) -> bytes:
        """The bytes of a file."""


_CODECS: dict[Format, Codec] = {
    codec.format: codec
    for codec in (
        jpeg.Jpeg(),
        png.Png(),
        webp.WebP(),
        tiff.Tiff(),
        bmp.Bmp(),
        pnm.Pnm(),
        avif.Avif(),
        gif.Gif(),
    )
}


def get(format: Format) -> Codec:
    return _CODECS[format]


def codecs() -> Iterator[Codec]:
    return iter(_CODECS.values())


def written_as(asked: Format | None, found: Format) -> Format:
    """The format of an output: the one that is asked for, or that of the input where it can be written."""
    return asked or get(found).written


def format_of(name: str) -> Format | None:
    """The format that a file name's suffix stands for."""
    suffix = name.rpartition(".")[2].lower()
    return next((c.format for c in _CODECS.values() if suffix in c.suffixes), None)


def read_header(head: Callable[[int], bytes], size: int) -> Header:
    """The header of a file.

    Args:
        head: gives the first n bytes of the file, or all that there are.
        size: of the file, in bytes.

    Raises:
        CorruptImage: the file is empty, cut off within the header, or the header makes no sense.
        UnsupportedImage: no codec knows it, or the flavour is refused by name.
    """
    if size == 0:
        raise CorruptImage("the file is empty")
    length = HEAD
    while True:
        data = head(length)
        codec = next((c for c in _CODECS.values() if c.sniff(data)), None)
        if codec is None:
            known = ", ".join(_CODECS)
            raise UnsupportedImage(f"its bytes are no image that imageloom knows ({known})")
        try:
            header = codec.header(data)
        except MoreNeeded:
            if len(data) < length:
                raise CorruptImage(f"the {codec.format} file is cut off within its header") from None
            length *= 16
            continue
        if header.frame.pixels == 0:
            raise CorruptImage(f"its header says {header.frame.width}x{header.frame.height} pixels")
        return header
