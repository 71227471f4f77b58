"""The metadata of camera raw files: their EXIF tags are in a TIFF structure, wherever the maker puts it."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from imageloom.codecs import tiffmetadata
from imageloom.codecs.bits import MOST_AT_ONCE, MoreNeeded, block, number
from imageloom.codecs.isobmff import boxes, complete_boxes
from imageloom.codecs.metadata import Metadata
from imageloom.codecs.tags import EXIF, GPS, Tree, first_directory, in_order, laid_out, order_of, tree
from imageloom.errors import CorruptImage

_FUJI, _MINOLTA, _CANON = b"FUJIFILMCCD-RAW", b"\0MRM", b"ftypcrx "
_LIKE_TIFF = {b"II*\0", b"MM\0*", b"IIRO", b"IIRS", b"MMOR", b"IIU\0"}
"""First bytes of TIFF, and of what Olympus and Panasonic write in their place."""
_OF_CANON = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")
_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_MOST_BLOCKS = 64
_OWN = Metadata(found=("private metadata",))
"""Of files that have their metadata in a structure of the maker's own."""


def read(data: bytes) -> Metadata:
    """EXIF and what else is known of a raw file. Offsets in maker notes may become invalid."""
    try:
        if data[:4] in _LIKE_TIFF:
            return _of_tiff(_as_tiff(data))
        if data[:15] == _FUJI:
            from imageloom.codecs.jpeg import Jpeg  # imported late: only these files need it

            found = Jpeg().metadata(block(data, number(data, 84, 4), number(data, 88, 4), "preview"))
            return Metadata(found.exif, found.xmp, iptc=found.iptc, density=found.density)
        if data[:4] == _MINOLTA:
            return next((_of_tiff(body) for name, body in _of_minolta(data) if name == b"\0TTW"), _OWN)
        if data[4:12] == _CANON:
            return _of_canon(data)
    except (MoreNeeded, CorruptImage):
        return Metadata(found=("damaged metadata",))
    return _OWN


def _as_tiff(data: bytes) -> bytes:
    """The file with the first bytes of a TIFF."""
    start = data[:2] + (b"*\0" if data[:2] == b"II" else b"\0*")
    return data if data[:4] == start else start + data[4 : len(data)]


def _of_tiff(data: bytes) -> Metadata:
    """What the first directory holds. It may be that of a preview; the pixels have other directories."""
    found = tiffmetadata.read(data)
    dropped = tuple(thing for thing in found.found if thing == "damaged metadata")
    return Metadata(found.exif, found.xmp, iptc=found.iptc, density=found.density, found=dropped)


def _of_minolta(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of each block."""
    at, end = 8, 8 + number(data, 4, 4)
    for _ in range(_MOST_BLOCKS):
        if at >= min(end, len(data)):
            return
        length = number(data, at + 4, 4)
        yield data[at : at + 4], block(data, at + 8, length, "metadata")
        at += 8 + length


def _of_canon(data: bytes) -> Metadata:
    """The directories of Canon's boxes joined to one block (CR3)."""
    held: dict[bytes, bytes] = {}
    xmp = b""
    for name, _, start, end in complete_boxes(data):
        if name == b"uuid" and data[start : start + 16] == _XMP:
            xmp = block(data, start + 16, end - start - 16, "XMP")
        elif name == b"moov" and end - start <= MOST_AT_ONCE:
            for inside, body in boxes(data[start:end]):
                if inside == b"uuid" and body[:16] == _OF_CANON:
                    held.update(boxes(body, 16))
    first = held.get(b"CMT1", b"")
    if not first:
        return replace(_OWN, xmp=xmp)
    order = order_of(first)
    joined = _tree(first)
    for tag, name in ((EXIF, b"CMT2"), (GPS, b"CMT4")):
        if below := held.get(name, b""):
            joined[tag] = in_order(_tree(below), order_of(below), order)
    found = _of_tiff(first[:4] + (8).to_bytes(4, order) + laid_out(joined, 8, order))
    return replace(found, xmp=xmp or found.xmp)


def _tree(structure: bytes) -> Tree:
    first_directory(structure)
    order = order_of(structure)
    return tree(structure, number(structure, 4, 4, order), order, lambda _: True)
