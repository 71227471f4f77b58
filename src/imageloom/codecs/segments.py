"""The segments of a JPEG and their metadata: EXIF, XMP with its extension, ICC profiles in several segments.

Exif 2.32, 4.7.2; XMP specification part 3, 1.1.3; ICC.1:2022, annex B.4.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from mmap import mmap

from imageloom.codecs.bits import Data, MoreNeeded
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.errors import CorruptImage, UnsupportedImage

_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_MORE_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_ICC = b"ICC_PROFILE\0"
_ROOM = 65_533
"""Maximum number of bytes in a segment after its length field."""
_EXTENDED = rb"HasExtendedXMP\s*(?:=\s*[\"']|>)\s*([0-9A-Fa-f]{32})"
SOS = 0xDA
_EOI = 0xD9
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of frame headers."""
_SCAN = bytes((0xFF, SOS))
_BARE = {0x01, *range(0xD0, 0xD9)}
"""Markers without a length: TEM, RST0 to RST7, SOI."""
_MARKER = rb"\xff[^\x00\xd0-\xd7\xff]"
"""A marker that ends entropy-coded data."""
MOST_SCANS = 100
"""Maximum number of scans. A progressive file has about ten; each scan is a pass over all coefficients."""
MOST_SEGMENTS = 1 << 16
"""Maximum number of segments. A large profile has 255."""
_STUB = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" '
    b'xmpNote:HasExtendedXMP="%s"/></rdf:RDF></x:xmpmeta>'
)


def read(data: bytes) -> Metadata:
    """The metadata of a JPEG, without incomplete profiles and extensions."""
    exif = xmp = b""
    profile: dict[int, bytes] = {}
    parts = 0
    more: dict[bytes, dict[int, bytes]] = {}
    for marker, start, end in _whole(data):
        body = data[start:end]
        if marker == 0xE1 and body.startswith(_EXIF):
            exif = exif or body[len(_EXIF) :]
        elif marker == 0xE1 and body.startswith(_XMP):
            xmp = xmp or body[len(_XMP) :]
        elif marker == 0xE1 and body.startswith(_MORE_XMP):
            at = len(_MORE_XMP)
            offset = int.from_bytes(body[at + 36 : at + 40])
            more.setdefault(body[at : at + 32].upper(), {})[offset] = body[at + 40 :]
        elif marker == 0xE2 and body.startswith(_ICC) and len(body) > 14:
            profile[body[12]], parts = body[14:], body[13]
    if not exif and not xmp and not profile:
        return NO_METADATA
    whole = sorted(profile) == list(range(1, parts + 1))
    icc = b"".join(profile[n] for n in sorted(profile)) if whole else b""
    return Metadata(exif, xmp, _extension(xmp, more) if more else b"", icc)


def _whole(data: bytes) -> list[tuple[int, int, int]]:
    """The segments that may hold metadata, up to the first invalid one."""
    found: list[tuple[int, int, int]] = []
    with suppress(MoreNeeded, CorruptImage):
        for marker, start, end in walk(data):
            if marker == 0xE1 or marker == 0xE2:
                found.append((marker, start, end))
    return found


def walk(data: Data) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of the body of each segment, up to the first scan (ITU-T T.81, B.1).

    Raises:
        MoreNeeded: the data ends too early.
        CorruptImage: there is no marker where one is expected.
    """
    at = 2
    for _ in range(MOST_SEGMENTS):
        mark = data[at : at + 4]
        if len(mark) < 2:
            raise MoreNeeded
        marker = mark[1]
        if mark[0] != 0xFF or not marker:
            raise CorruptImage(f"the JPEG header is damaged at byte {at}")
        if marker == 0xFF:
            at = _behind_filling(data, at)
            continue
        if marker in _BARE:
            at += 2
            continue
        if marker == _EOI:
            return
        if len(mark) < 4:
            raise MoreNeeded
        length = mark[2] << 8 | mark[3]
        if length < 2:
            raise CorruptImage(f"the JPEG header is damaged at byte {at}")
        yield marker, at + 4, at + 2 + length
        if marker == SOS:
            return
        at += 2 + length
    raise UnsupportedImage(f"JPEG with more than {MOST_SEGMENTS:,} segments is not supported")


def _behind_filling(data: Data, at: int) -> int:
    """The position of a marker after fill bytes (ITU-T T.81, B.1.1.2)."""
    while piece := data[at : at + _ROOM]:
        if rest := piece.lstrip(b"\xff"):
            return at + len(piece) - len(rest) - 1
        at += len(piece)
    raise MoreNeeded


def check_scans(data: bytes | mmap) -> None:
    """Limit the number of scans: each scan is a pass over all pixels.

    Raises:
        UnsupportedImage: it has more than `MOST_SCANS`, or more segments than `MOST_SEGMENTS`.
    """
    at = found = 0
    while found <= MOST_SCANS and (at := data.find(_SCAN, at) + 1):
        found += 1
    if found <= MOST_SCANS:  # markers in metadata and after the image are counted too
        return
    marker = re.compile(_MARKER)
    at = 2
    found = 0
    for _ in range(MOST_SEGMENTS):
        mark = marker.search(data, at)
        if mark is None or mark[0][1] == _EOI:
            return
        at = mark.end()
        if mark[0][1] in _BARE:
            continue
        if mark[0][1] == SOS:
            found += 1
            if found > MOST_SCANS:
                raise UnsupportedImage(f"JPEG with more than {MOST_SCANS} scans is not supported")
        at += max(2, int.from_bytes(data[at : at + 2]))
    raise UnsupportedImage(f"JPEG with more than {MOST_SEGMENTS:,} segments is not supported")


def _extension(xmp: bytes, more: dict[bytes, dict[int, bytes]]) -> bytes:
    """The extension that the packet refers to, if it is complete."""
    named = re.search(_EXTENDED, xmp)
    if named is None:
        return b""
    parts = more.get(named[1].upper(), {})
    joined = b"".join(parts[offset] for offset in sorted(parts))
    return (
        joined
        if hashlib.md5(joined, usedforsecurity=False).hexdigest().upper() == named[1].upper().decode()
        else b""
    )


def insert(data: bytes, metadata: Metadata) -> bytes:
    """Insert metadata into a JPEG, after its JFIF segment.

    Raises:
        UnsupportedImage: the metadata does not fit into segments.
    """
    if metadata == NO_METADATA:
        return data
    at = 4 + int.from_bytes(data[4:6]) if data[2:4] == b"\xff\xe0" else 2
    return b"".join((data[:at], *written(metadata), data[at:]))


def written(metadata: Metadata) -> Iterator[bytes]:
    """The segments for the metadata.

    Raises:
        UnsupportedImage: the metadata does not fit into segments.
    """
    if metadata.exif:
        if len(metadata.exif) > _ROOM - len(_EXIF):
            raise _too_large("EXIF", metadata.exif)
        yield _segment(0xE1, _EXIF, metadata.exif)
    yield from _written_xmp(metadata.xmp, metadata.extended_xmp)
    step = _ROOM - 14
    parts = [metadata.icc[i : i + step] for i in range(0, len(metadata.icc), step)]
    if len(parts) > 255:
        raise _too_large("colour profile", metadata.icc)
    for i, part in enumerate(parts):
        yield _segment(0xE2, _ICC, bytes((i + 1, len(parts))), part)


def _written_xmp(xmp: bytes, extension: bytes) -> Iterator[bytes]:
    """The segments for XMP. A packet too large for one segment becomes the extension of an empty packet."""
    if len(xmp) > _ROOM - len(_XMP):
        if extension:
            raise _too_large("XMP", xmp)
        extension, xmp = xmp, _STUB
    guid = hashlib.md5(extension, usedforsecurity=False).hexdigest().upper().encode()
    if xmp is _STUB:
        xmp = _STUB % guid
    elif extension:
        xmp = re.sub(_EXTENDED, lambda found: found[0][:-32] + guid, xmp)
    if xmp:
        yield _segment(0xE1, _XMP, xmp)
    step = _ROOM - len(_MORE_XMP) - 40
    for i in range(0, len(extension), step):
        head = guid + len(extension).to_bytes(4) + i.to_bytes(4)
        yield _segment(0xE1, _MORE_XMP, head, extension[i : i + step])


def _segment(marker: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2) + body


def _too_large(what: str, data: bytes) -> UnsupportedImage:
    return UnsupportedImage(f"a JPEG cannot hold its {what} of {len(data):,} bytes (--metadata strip)")
