"""Descriptions by which programs say what pixels a TIFF holds: those of tifffile, ImageJ, Aperio and OME.

They are kept while they are true.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from imageloom.codecs.bits import MoreNeeded
from imageloom.codecs.tags import first_directory, laid_out, order_of, tree
from imageloom.errors import CorruptImage
from imageloom.model import Frame

DENSITY = (282, 283, 296)
"""Tags of the resolution."""
_MARKS = (b'{"shape"', b"ImageJ=", b"Aperio", b"<OME ", b"<ome:OME ")
_ENTRIES = (b"\x0e\x01\2\0", b"\x01\x0e\0\2")
"""The beginning of the entry of a description, in both byte orders."""
_SIZES = re.compile(rb"\bSize([XYZCT])=\"(\d{1,9})\"")
_OME_TYPES = {"uint8": b"uint8", "uint16": b"uint16", "float32": b"float"}


def without_false(exif: bytes, frame: Frame, moved: bool) -> tuple[bytes, bool]:
    """The EXIF block without a description that is not true of an output, and whether there was one.

    Args:
        frame: the frame of the output.
        moved: whether a step has moved pixels.
    """
    start = exif[:1024]  # a search in the whole block would take longer
    if not any(entry in start for entry in _ENTRIES) or not any(mark in exif for mark in _MARKS):
        return exif, False
    from imageloom.codecs.tifflayout import DESCRIPTION, description  # imported late: few files need it

    try:
        text = description(exif, first_directory(exif).entries)
    except (MoreNeeded, CorruptImage):
        return exif, False
    return (exif, False) if _is_true(text, frame, moved) else (without(exif, (DESCRIPTION,)), True)


def without(exif: bytes, tags: Collection[int]) -> bytes:
    """The EXIF block without some tags of its first directory. Offsets in maker notes may become invalid."""
    if not exif:
        return exif
    order = order_of(exif)
    left = tree(exif, int.from_bytes(exif[4:8], order), order, lambda tag: tag not in tags)
    return exif[:4] + (8).to_bytes(4, order) + laid_out(left, 8, order) if left else b""


def _is_true(text: bytes, frame: Frame, moved: bool) -> bool:
    """Whether a description is true of one picture with this frame. Texts of people are always true."""
    size = (frame.height, frame.width)
    if text.startswith(b'{"shape"'):
        from imageloom.codecs.tifflayout import shape_in

        shape = shape_in(text)
        sides = (*size, frame.channels) if frame.channels > 1 else size
        return shape in (sides, (*size, 1) if frame.channels == 1 else sides)
    if text.startswith((b"ImageJ=", b"Aperio")):
        return not moved
    if any(mark in text[:4096] for mark in (b"<OME ", b"<ome:OME ")):
        found = [(axis, int(number)) for axis, number in _SIZES.findall(text)]
        stated = {b"X": frame.width, b"Y": frame.height, b"C": frame.channels, b"Z": 1, b"T": 1}
        of_type = b'Type="' + _OME_TYPES[frame.dtype] + b'"'
        return not moved and of_type in text and len(found) == 5 and dict(found) == stated
    return True
