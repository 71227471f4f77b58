"""Codecs: bytes to pixels and back, one file for each library.

A file is what its bytes say, not its name. A header is read in a few kilobytes; only `decode` touches pixels.
`read_header`, `decode` and `read_metadata` raise an `ItemError`, whatever a codec or its library raises.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol, cast

import msgspec

from imageloom.codecs.bits import Data, MoreNeeded, View
from imageloom.errors import CorruptImage, ImageloomError, UnreadableItem, UnsupportedImage
from imageloom.model import NO_METADATA, Format, Frame, Header, Metadata, Pixels
from imageloom.system.registry import Registry

if TYPE_CHECKING:
    from imageloom.codecs.piecewise.ordered import Encoder

HEAD = 16 << 10
"""How many bytes of a file are read at first; most headers end within them."""


class Codec(Protocol):
    """One format. Callers go through the functions of this module, which see to errors.

    The class of a plug-in has besides `magic` and `suffixes`, see `_Known`.
    """

    format: Format
    quality: int
    """What a lossy encoder takes where nothing is asked; 0 for lossless formats."""
    encoder_bytes: int
    """What the encoder holds beside the pixels and the file, in bytes for each pixel, about."""
    written: Format
    """What outputs are where nothing is asked: the same, but for formats that are only read."""
    carries: tuple[str, ...]
    """The kinds of metadata that a file of this format can take along."""

    def header(self, head: Data) -> Header:
        """What a file's beginning says, or wherever its header stands.

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


class _Known(NamedTuple):
    """What there is to know of a format before its codec is loaded."""

    codec: str
    """Module and class, as "module:class"."""
    magic: bytes
    """A pattern of the first bytes of its files; empty where they are not read."""
    suffixes: tuple[str, ...]
    """Of file names, the usual one first."""


_NOTHING = rb"(?!)"
_KNOWN: dict[Format, _Known] = {
    "jpeg": _Known("imageloom.codecs.jpeg:Jpeg", rb"\xff\xd8\xff", ("jpg", "jpeg", "jpe", "jfif")),
    "png": _Known("imageloom.codecs.png:Png", rb"\x89PNG\r\n\x1a\n", ("png",)),
    "webp": _Known("imageloom.codecs.webp:WebP", rb"(?s)RIFF.{4}WEBP", ("webp",)),
    "tiff": _Known("imageloom.codecs.tiff:Tiff", rb"II[*+]\0|MM\0[*+]", ("tif", "tiff")),
    "bmp": _Known("imageloom.codecs.bmp:Bmp", rb"(?s)BM.{4}\0{4}", ("bmp", "dib")),
    "pnm": _Known("imageloom.codecs.pnm:Pnm", rb"P[1-7Ff][ \t\r\n#]", ("pnm", "ppm", "pgm", "pbm")),
    "avif": _Known("imageloom.codecs.avif:Avif", rb"(?s).{4}ftyp(?:.{4}){0,32}?avi[fs]", ("avif",)),
    "gif": _Known("imageloom.codecs.gif:Gif", rb"GIF8[79]a", ("gif",)),
    "zarr": _Known("imageloom.codecs.zarr:Zarr", b"", ("zarr",)),
}


_SUFFIXES = {suffix: format for format, known in _KNOWN.items() for suffix in known.suffixes}
_NEEDED = [
    "quality",
    "encoder_bytes",
    "written",
    "carries",
    "header",
    "cannot_hold",
    "decode",
    "metadata",
    "encode",
    "magic",
    "suffixes",
]
"""The attributes of a plug-in's class besides `format`."""


def _check_plugin(name: str, codec: Any) -> None:
    """Refuse what is no codec, or claims the suffix of another one.

    Raises:
        Exception: why.
    """
    msgspec.convert(name, Format)
    if lacking := [attribute for attribute in _NEEDED if not hasattr(codec, attribute)]:
        raise TypeError(f"it has no {', '.join(lacking)}")
    if codec.format != name:
        raise ValueError(f"its format is {codec.format!r}")
    _pattern(codec.magic)
    for suffix in msgspec.convert(codec.suffixes, Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]):
        if owner := _SUFFIXES.get(suffix):
            raise ValueError(f"the suffix {suffix!r} is that of {owner} ({_KNOWN[owner].codec})")


CODECS = Registry("codec", {format: known.codec for format, known in _KNOWN.items()}, _check_plugin)


@cache
def _plugins() -> dict[Format, _Known]:
    """The codecs of plug-ins: asked for only where a file is none of imageloom's own formats."""
    return {
        name: _Known(f"{codec.__module__}:{codec.__qualname__}", codec.magic, codec.suffixes)
        for name, codec in CODECS.plugins()
    }


@cache
def _pattern(magic: bytes) -> re.Pattern[bytes]:
    """What the first bytes of files match; nothing where they are not read."""
    return re.compile(magic or _NOTHING)


@cache
def get(format: Format) -> Codec:
    """The codec of a format; it is loaded when it is asked for.

    Raises:
        UsageError: there is none (the message lists the known ones), or its plug-in cannot be loaded.
    """
    codec: Codec = CODECS.load(format)()
    return codec


def formats() -> tuple[Format, ...]:
    """Those of imageloom itself."""
    return tuple(_KNOWN)


def suffixes(format: Format) -> tuple[str, ...]:
    """Of the names of such files, the usual one first."""
    return (_KNOWN.get(format) or _plugins()[format]).suffixes


def written_as(asked: Format | None, found: Format) -> Format:
    """The format of an output: the one that is asked for, or that of the input where it can be written."""
    return asked or get(found).written


def format_of(name: str) -> Format | None:
    """The format that a file name's suffix stands for."""
    suffix = name.rpartition(".")[2].lower()
    if (found := _SUFFIXES.get(suffix)) or "." not in name.rpartition("/")[2]:
        return found
    return next((format for format, known in _plugins().items() if suffix in known.suffixes), None)


def _by_content(data: bytes, table: dict[Format, _Known]) -> Format | None:
    """The format in a table that a file's first bytes are of."""
    return next((format for format, known in table.items() if _pattern(known.magic).match(data)), None)


def read_header(
    head: Callable[[int], bytes], size: int, read: Callable[[int, int], bytes] | None = None
) -> Header:
    """The header of a file.

    Args:
        head: gives the first n bytes of the file, or all that there are.
        read: gives n bytes from a place on, where the file can be read so.
        size: of the file, in bytes.

    Raises:
        CorruptImage: the file is empty, cut off within the header, or the header makes no sense.
        UnsupportedImage: no codec knows it, or the flavour is refused by name.
        LimitExceeded: the header takes too many bytes.
    """
    if size == 0:
        raise CorruptImage("the file is empty")
    data = head(HEAD)
    format = _by_content(data, _KNOWN) or _by_content(data, _plugins())
    if format is None:
        known = ", ".join(format for format, known in {**_KNOWN, **_plugins()}.items() if known.magic)
        raise UnsupportedImage(f"its bytes are no image that imageloom knows ({known})")
    codec = get(format)
    try:
        try:
            header = codec.header(data)
        except MoreNeeded:
            if len(data) >= size:
                raise
            header = codec.header(View(read or (lambda at, length: head(at + length)[at:]), size, data))
    except MoreNeeded:
        raise CorruptImage(f"the {format} file is cut off within its header") from None
    except Exception as error:
        raise by_name(error, f"the {format} file's header is damaged") from None
    if header.frame.pixels == 0:
        raise CorruptImage(f"its header says {header.frame.width}x{header.frame.height} pixels")
    return header


def header_of(data: bytes) -> Header:
    """The header of a file that is in memory; raises as `read_header`."""
    return read_header(lambda length: data[:length], len(data), lambda at, length: data[at : at + length])


def decode(data: bytes, header: Header, *, luma: bool = False, scale: int = 1) -> Pixels:
    """The pixels of a whole file: its luma alone where asked, at 1/scale of its size.

    Args:
        header: of this file.

    Raises:
        CorruptImage, UnsupportedImage: it cannot be decoded, or decodes to other pixels than its header says.
    """
    try:
        pixels = get(header.format).decode(data, header, luma=luma, scale=scale)
    except Exception as error:
        raise by_name(error, f"the {header.format} file cannot be decoded") from None
    frame = header.frame
    if (
        pixels.shape[:2] != (-(-frame.height // scale), -(-frame.width // scale))
        or pixels.dtype != frame.dtype
    ):
        found = f"{pixels.shape[1]}x{pixels.shape[0]} {pixels.dtype}"
        raise CorruptImage(f"it decodes to {found}, where its header says {frame}")
    return pixels


def read_metadata(data: bytes, format: Format) -> Metadata:
    """What a whole file says of its pixels, without reading them.

    Raises:
        LimitExceeded: a part of it is too large, or unfolds to too much.
        CorruptImage: the file is damaged.
    """
    try:
        return get(format).metadata(data)
    except Exception as error:
        raise by_name(error, f"the {format} file's metadata are damaged") from None


def by_name(error: Exception, what: str) -> Exception:
    """An error of this project as it is; any other, of a library or of a parser led astray, as CorruptImage."""
    if isinstance(error, ImageloomError | MemoryError):
        return error
    said = " ".join(str(error).split())
    return CorruptImage(f"{what}: {said}" if said and not isinstance(error, MoreNeeded) else what)


def in_pieces(format: Format, frame: Frame, quality: int, metadata: Metadata = NO_METADATA) -> Encoder | None:
    """What encodes a large image piece by piece, to the same bytes as `encode`; None for small ones and for
    formats that have no such form. What is a folder of pieces is so in every size."""
    codec = get(format)
    made = getattr(codec, "in_pieces", None)
    return made(frame, quality, metadata) if made and (frame.is_large or hasattr(codec, "files")) else None


def encode(
    format: Format, image: Pixels, quality: int, metadata: Metadata = NO_METADATA
) -> bytes | dict[str, bytes]:
    """The bytes of a file, or of a format that is a folder its files by their paths within it."""
    codec = get(format)
    files: Callable[[Pixels], dict[str, bytes]] | None = getattr(codec, "files", None)
    return files(image) if files else codec.encode(image, quality, metadata)


def metadata_of(path: str, format: Format) -> Metadata:
    """What a file says of its pixels, without reading them.

    Raises:
        UnreadableItem: the file cannot be read.
        ItemError: as `read_metadata`.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return read_metadata(cast("bytes", data), format)
    except OSError as error:
        raise UnreadableItem(f"cannot read it: {error.strerror}") from None
