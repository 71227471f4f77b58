"""Fuzz targets: the readers of image files. All codecs have them, also those of plug-ins."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np

from imageloom import codecs
from imageloom.bench.samples import draw_photo
from imageloom.codecs.adapt import Target as Output
from imageloom.codecs.adapt import for_output
from imageloom.codecs.bits import MoreNeeded, View
from imageloom.errors import ImageloomError
from imageloom.model import THINGS, Encoding, Format, Frame, Limits
from imageloom.recipes.plan import check_limits
from imageloom.testing.fuzzing.target import Target
from imageloom.testing.hostile.bases import bases
from imageloom.testing.hostile.mutations import with_checksums
from imageloom.tiling.readers import open_reader

LIMITS = Limits(max_pixels=1 << 18)
_REGIONS: tuple[Format, ...] = ("jpeg", "png", "tiff")
"""Formats of which large files are read in pieces."""
_PIECE = 64
"""Width and height of the regions that are read, in pixels."""
_OUTPUTS = [
    Output(Frame(20, 10, channels), carries, moved, converted=converted)
    for channels in (1, 3)
    for carries in (frozenset(THINGS), frozenset())
    for moved, converted in ((True, True), (False, False))
]
_DOCUMENTS = {
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='7'><rect width='5' height='5'/></svg>",
    "pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>"
    b"endobj\n3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 7]>>endobj\ntrailer<</Root 1 0 R>>\n",
    "ico": struct.pack("<HHHBBBBHHII", 0, 1, 1, 2, 2, 0, 0, 1, 24, 64, 22)
    + struct.pack("<IiiHHIIiiII", 40, 2, 4, 1, 24, 0, 0, 0, 0, 0, 0)
    + bytes(24),
    "raw": b"FUJIFILMCCD-RAW 0201FF000000" + bytes(200),
}
"""Small files of formats that have no base file."""


def targets() -> Iterator[Target]:
    for format in codecs.CODECS.names():
        if not codecs.is_read(format):
            continue
        yield _target("header", format, partial(header, format), (ImageloomError, MoreNeeded))
        yield _target("metadata", format, partial(metadata, format), (ImageloomError, MoreNeeded))
        if codecs.in_process(format):
            yield _target("decode", format, decode)
        if format in _REGIONS:
            yield _target("region", format, region)


def _target(
    what: str,
    format: Format,
    run: Callable[[bytes], object],
    expected: tuple[type[Exception], ...] = (ImageloomError,),
) -> Target:
    repair = with_checksums if format == "png" else bytes
    return Target(f"{what}-{format}", run, partial(seeds, format), format, expected, repair=repair)


@cache
def _bases() -> dict[Format, list[bytes]]:
    found: dict[Format, list[bytes]] = {format: [data] for format, data in _DOCUMENTS.items()}
    for _, format, data in bases():
        found.setdefault(format, []).append(data)
    return found


def seeds(format: Format) -> list[bytes]:
    """Valid files of a format. A plug-in that only reads has none: its corpus needs a file."""
    return _bases().get(format) or list(_encoded(format))


def _encoded(format: Format) -> Iterator[bytes]:
    """Small files, as the codec writes them."""
    codec = codecs.get(format)
    for channels in (1, 3, 4) if codec.written == format else ():
        if codec.cannot_hold(Frame(16, 12, channels)) is None:
            image = draw_photo(5, 16, 12)
            pixels = {1: image[:, :, 0].copy(), 3: image, 4: np.dstack((image, image[:, :, 0]))}[channels]
            yield codec.encode(pixels, Encoding(90))


def header(format: Format, data: bytes) -> None:
    """Read a header from the first bytes of a file, and from the whole file."""
    codec = codecs.get(format)
    view = View(lambda at, length: data[at : at + length], len(data), data[:16])
    try:
        codec.header(data)
    except (ImageloomError, MoreNeeded):
        codec.header(view)
        return
    found = codec.header(view)
    page_header = getattr(codec, "page_header", None)
    if page_header is not None and found.pages > 1:
        page_header(view, found.pages - 1, 0)


def metadata(format: Format, data: bytes) -> None:
    """Read metadata, and adapt them to outputs, which never fails: damaged metadata are dropped."""
    # Not by `read_metadata`, which hides unexpected exceptions: it is for those of the libraries of plug-ins.
    own = format in codecs.formats()
    found = codecs.get(format).metadata(data) if own else codecs.read_metadata(data, format)
    for output in _OUTPUTS:
        for_output(found, output)


def decode(data: bytes) -> None:
    """Decode a small file."""
    found = codecs.header_of(data)
    check_limits(found, LIMITS, len(data))
    codecs.decode(data, found)


def region(data: bytes) -> None:
    """Read two regions of a small file: at its beginning and at its end."""
    found = codecs.header_of(data)
    check_limits(found, LIMITS, len(data))
    file = os.memfd_create("fuzzing", os.MFD_CLOEXEC)
    try:
        os.write(file, data)
        reader = open_reader(Path(f"/proc/self/fd/{file}"), found.format, found.frame)
        try:
            width, height = found.frame.width, found.frame.height
            if reader.random:
                reader.read(0, 0, min(_PIECE, width), min(_PIECE, height))
                reader.read(max(0, width - _PIECE), max(0, height - _PIECE), width, height)
            else:
                for top in range(0, height, _PIECE):
                    reader.read(0, top, width, min(top + _PIECE, height))
        finally:
            reader.close()
    finally:
        os.close(file)
