"""Codecs: decode files to pixels and encode pixels to files, one module per format.

The format is recognized by a file's bytes, not by its name. Reading a header needs a few kilobytes; only `decode`
decodes pixels. `read_header`, `decode` and `read_metadata` raise an `ItemError` for any exception of a library.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import msgspec

from imageloom.codecs.bits import HEAD, MOST_READ, Data, MoreNeeded, View
from imageloom.codecs.contract import Codec as Codec
from imageloom.codecs.contract import Versions as Versions
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.errors import CorruptImage, ImageloomError, UnreadableItem, UnsupportedImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing
from imageloom.system.registry import Registry

if TYPE_CHECKING:
    from imageloom.codecs.piecewise.ordered import Encoder


class _Known(NamedTuple):
    """The properties of a format that are known before its codec is imported."""

    codec: str
    """Module and class of the codec, as "module:class"."""
    magic: bytes
    """A pattern of the first bytes of its files; empty if the format cannot be read."""
    suffixes: tuple[str, ...]
    """Suffixes of file names, the default first."""
    versions: Versions = Versions()


_NOTHING = rb"(?!)"
_KNOWN: dict[Format, _Known] = {
    "jpeg": _Known("imageloom.codecs.jpeg:Jpeg", rb"\xff\xd8\xff", ("jpg", "jpeg", "jpe", "jfif")),
    "png": _Known("imageloom.codecs.png:Png", rb"\x89PNG\r\n\x1a\n", ("png",)),
    "webp": _Known("imageloom.codecs.webp:WebP", rb"(?s)RIFF.{4}WEBP", ("webp",), Versions(encoder=1)),
    "tiff": _Known(
        "imageloom.codecs.tiff:Tiff",
        rb"II[*+]\0|MM\0[*+]",
        ("tif", "tiff", "svs"),
        Versions(decoder=1, encoder=1),
    ),
    "bmp": _Known("imageloom.codecs.bmp:Bmp", rb"(?s)BM.{4}\0{4}", ("bmp", "dib")),
    "pnm": _Known(
        "imageloom.codecs.pnm:Pnm", rb"P[1-7Ff][ \t\r\n#]", ("pnm", "ppm", "pgm", "pbm", "pam", "pfm")
    ),
    "avif": _Known(
        "imageloom.codecs.avif:Avif", rb"(?s).{4}ftyp(?:.{4}){0,32}?avi[fs]", ("avif",), Versions(encoder=1)
    ),
    "heif": _Known(
        "imageloom.codecs.heif:Heif",
        rb"(?s).{4}ftyp(?:.{4}){0,32}?(?:hei[cxms]|hev[cxms]|mif1|msf1)",
        ("heic", "heif", "hif"),
    ),
    "jxl": _Known(
        "imageloom.codecs.jxl:Jxl",
        rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
        ("jxl",),
        Versions(encoder=1),
    ),
    "jp2": _Known(
        "imageloom.codecs.jp2:Jp2",
        rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
        ("jp2", "j2k", "jpx", "jpf", "j2c", "jpc"),
        Versions(encoder=1),
    ),
    "raw": _Known(
        "imageloom.codecs.raw:Raw",
        rb"(?s)FUJIFILMCCD-RAW|IIU\0|IIR[OS]|MMOR|\0MRM|FOVb|II\x1a\0\0\0HEAPCCDR|.{4}ftypcrx ",
        (
            *("dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf"),
            *("pef", "crw", "mrw", "x3f", "srw", "nrw", "3fr", "iiq"),
        ),
        Versions(decoder=1),
    ),
    "pdf": _Known("imageloom.codecs.pdf:Pdf", rb"(?s)(?:\xef\xbb\xbf)?\s{0,16}%PDF-", ("pdf",)),
    "svg": _Known(
        "imageloom.codecs.svg:Svg",
        rb"(?s)(?:\xef\xbb\xbf)?\s*(?:<\?xml.{0,200}?\?>\s*)?(?:<!--.{0,4000}?-->\s*|<!DOCTYPE.{0,8000}?>\s*)*"
        rb"<(?:\w{1,20}:)?svg[\s>]",
        ("svg",),
    ),
    "gif": _Known("imageloom.codecs.gif:Gif", rb"GIF8[79]a", ("gif",)),
    "ico": _Known("imageloom.codecs.ico:Ico", rb"(?s)\0\0[\1\2]\0[^\0]\0.{3}[\0\1]", ("ico", "cur")),
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
        name: _Known(
            f"{codec.__module__}:{codec.__qualname__}",
            codec.magic,
            codec.suffixes,
            Versions(*getattr(codec, "versions", ())),
        )
        for name, codec in CODECS.plugins()
    }


@cache
def _pattern(magic: bytes) -> re.Pattern[bytes]:
    """What the first bytes of files match; nothing where they are not read."""
    return re.compile(magic or _NOTHING)


@cache
def get(format: Format) -> Codec:
    """The codec of a format. It is imported when it is first needed.

    Raises:
        UsageError: there is none (the message lists the known ones), or its plug-in cannot be loaded.
    """
    codec: Codec = CODECS.load(format)()
    return codec


def carries(format: Format, frame: Frame) -> frozenset[Thing]:
    """What an output with such pixels can hold beside them.

    A profile for gray does not fit pixels that the codec writes in colour.
    """
    codec = get(format)
    lacks: Callable[[Frame], frozenset[Thing]] | None = getattr(codec, "lacks", None)
    held = frozenset(codec.carries) - (lacks(frame) if lacks else frozenset())
    return held - {"colour profile"} if frame.channels in getattr(codec, "gray_in_colour", ()) else held


def settings(format: Format) -> tuple[str, ...]:
    """The names of the fields of `Encoding` that a format supports, beside the quality."""
    return getattr(get(format), "settings", ())


def in_process(format: Format) -> bool:
    """Whether files of a format may be decoded in the process of the driver: see `Codec.in_process`."""
    return getattr(get(format), "in_process", False)


def formats() -> tuple[Format, ...]:
    """Those of imageloom itself."""
    return tuple(_KNOWN)


def is_read(format: Format) -> bool:
    """Whether files of a format can be read."""
    return bool((_KNOWN.get(format) or _plugins()[format]).magic)


def suffixes(format: Format) -> tuple[str, ...]:
    """The file suffixes of a format, the default first."""
    return (_KNOWN.get(format) or _plugins()[format]).suffixes


def versions(format: Format) -> Versions:
    """The versions of a format's results, for `recipes.meaning`."""
    known = _KNOWN.get(format) or _plugins().get(format)
    return known.versions if known else Versions()


def written_as(asked: Format | None, found: Format) -> Format:
    """The format of an output: the requested format, or else the input's format if it can be written."""
    return asked or get(found).written


def format_of(name: str) -> Format | None:
    """The format of a file name's suffix; None if unknown."""
    _, dot, suffix = name.rpartition("/")[2].lower().rpartition(".")
    if not dot:
        return None
    if found := _SUFFIXES.get(suffix):
        return found
    return next((format for format, known in _plugins().items() if suffix in known.suffixes), None)


def _by_content(data: bytes, table: dict[Format, _Known]) -> Format | None:
    """The format in a table that a file's first bytes are of."""
    for format, known in table.items():
        if _pattern(known.magic).match(data):
            return format
    return None


def read_header(
    head: Callable[[int], bytes],
    size: int,
    read: Callable[[int, int], bytes] | None = None,
    page: int = 0,
    density: int = 0,
) -> Header:
    """Read the header of a file.

    Args:
        head: returns the first n bytes of the file, or fewer if the file is shorter.
        size: size of the file in bytes.
        read: (position, n) -> n bytes from a position, if the file supports it.
        page: number of the page, from 0.
        density: pixels per inch at which a document is drawn; 0 for the codec's default.

    Raises:
        CorruptImage: the file is empty or cut off in its header, or the header is invalid.
        UnsupportedImage: the format, or this variant of it, is not supported.
        LimitExceeded: the header is too long.
    """
    if size == 0:
        raise CorruptImage("the file is empty")
    data = head(HEAD)
    format = _by_content(data, _KNOWN) or _by_content(data, _plugins())
    if format == "tiff":
        from imageloom.codecs.rawkind import is_raw  # imported late: only TIFF files need it

        format = "raw" if is_raw(data) else format
    if format is None:
        from imageloom.codecs.unknown import name_of  # imported late: images do not need it

        known = ", ".join(format for format, known in {**_KNOWN, **_plugins()}.items() if known.magic)
        name = name_of(data)
        found = f"is {name}, not" if name else "is not"
        raise UnsupportedImage(f"the file {found} an image of a supported format ({known})")
    codec = get(format)
    try:
        try:
            header = _header(codec, data, page, density)
        except MoreNeeded:
            most = getattr(codec, "most_read", MOST_READ)
            view = View(read or (lambda at, length: head(at + length)[at:]), size, data, most)
            header = _header(codec, view, page, density)
    except MoreNeeded:
        raise CorruptImage(f"the {format} file is cut off within its header") from None
    except Exception as error:
        raise by_name(error, f"the {format} file's header is damaged") from None
    if header.frame.pixels == 0:
        raise CorruptImage(f"its header says {header.frame.width}x{header.frame.height} pixels")
    return header


def _header(codec: Codec, data: Data, page: int, density: int) -> Header:
    """The header of a page. Only codecs of formats with pages or with a density have a `page_header`."""
    parse = getattr(codec, "page_header", None)
    header: Header = parse(data, page, density) if parse else codec.header(data)
    if page >= header.pages:
        raise UnsupportedImage(
            f"the file has {header.pages:,} pages: there is no page {page + 1:,} (--pages)"
        )
    return header


def header_of(data: bytes, page: int = 0, density: int = 0) -> Header:
    """Read the header of a file in memory. Raises the same errors as `read_header`."""
    return read_header(
        lambda length: data[:length], len(data), lambda at, length: data[at : at + length], page, density
    )


def decode(
    data: bytes, header: Header, *, luma: bool = False, scale: int = 1, damage: DamageLog | None = None
) -> Pixels:
    """Decode a file.

    Args:
        header: the header of this file.
        luma: decode only the luma (brightness).
        scale: divisor of width and height: 1, 2, 4 or 8.
        damage: where damage is reported; None accepts what "warn" accepts, without a report.

    Returns:
        Gray (height, width), or gray+alpha, RGB or RGBA (height, width, channels).

    Raises:
        CorruptImage, UnsupportedImage: the file cannot be decoded, or its pixels contradict its header.
    """
    try:
        pixels = get(header.format).decode(data, header, luma=luma, scale=scale, damage=damage or DamageLog())
    except Exception as error:
        raise by_name(error, f"the {header.format} file cannot be decoded") from None
    frame = header.frame
    if (
        pixels.shape[:2] != (-(-frame.height // scale), -(-frame.width // scale))
        or pixels.dtype != frame.dtype
    ):
        found = f"{pixels.shape[1]}x{pixels.shape[0]} {pixels.dtype}"
        raise CorruptImage(f"it decodes to {found}, but its header says {frame}")
    return pixels


def read_metadata(data: bytes, format: Format, page: int = 0) -> Metadata:
    """Read the metadata of a file, or of a page, without decoding its pixels.

    Raises:
        LimitExceeded: a block is too large, or too large when it is decompressed.
        CorruptImage: the file is damaged.
    """
    try:
        codec = get(format)
        of_page: Callable[[bytes, int], Metadata] | None = getattr(codec, "page_metadata", None)
        return of_page(data, page) if page and of_page else codec.metadata(data)
    except Exception as error:
        raise by_name(error, f"the metadata of the {format} file are damaged") from None


def by_name(error: Exception, what: str) -> Exception:
    """An ImageloomError unchanged; any other exception, from a library or a parser, as CorruptImage."""
    if isinstance(error, ImageloomError | MemoryError):
        return error
    said = " ".join(str(error).split())
    return CorruptImage(f"{what}: {said}" if said and not isinstance(error, MoreNeeded) else what)


def in_pieces(
    format: Format, frame: Frame, encoding: Encoding, metadata: Metadata = NO_METADATA
) -> Encoder | None:
    """An encoder that encodes a large image piece by piece, to the same bytes as `encode`. None for small images
    and for formats without such an encoder. Formats that are folders always have one."""
    if encoding.max_bytes or encoding.progressive or encoding.effort:
        return None  # the encoder needs all pixels at once
    codec = get(format)
    made = getattr(codec, "in_pieces", None)
    return made(frame, encoding, metadata) if made and (frame.is_large or hasattr(codec, "files")) else None


def encode(
    format: Format, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA
) -> bytes | dict[str, bytes]:
    """Encode an image: to the bytes of a file, or for a folder format to a mapping of relative paths to bytes.

    Raises:
        LimitExceeded: the file is larger than `Encoding.max_bytes`, also at the lowest quality.
    """
    codec = get(format)
    files: Callable[[Pixels], dict[str, bytes]] | None = getattr(codec, "files", None)
    if files:
        return files(image)
    if encoding.max_bytes:
        from imageloom.codecs.fitting import within  # few outputs have a limit

        return within(codec, image, encoding, metadata)
    return codec.encode(image, encoding, metadata)


def metadata_of(path: str, format: Format, page: int = 0) -> Metadata:
    """Read the metadata of the file at a path, without decoding its pixels.

    Raises:
        UnreadableItem: the file cannot be read.
        ItemError: see `read_metadata`.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return read_metadata(cast("bytes", data), format, page)
    except OSError as error:
        raise UnreadableItem(f"cannot read it: {error.strerror}") from None
