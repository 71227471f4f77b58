"""Metadata in a JPEG's application segments: EXIF, XMP with its extension, ICC profiles of several segments.

Exif 2.32, 4.7.2; XMP specification part 3, 1.1.3; ICC.1:2022, annex B.4.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from imageloom.errors import UnsupportedImage
from imageloom.model import NO_METADATA, Metadata

_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_MORE_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_ICC = b"ICC_PROFILE\0"
_ROOM = 65_533
"""Bytes that a segment holds behind its length."""
_EXTENDED = re.compile(rb"HasExtendedXMP\s*(?:=\s*[\"']|>)\s*([0-9A-Fa-f]{32})")
_FILLING = re.compile(rb"\xff+")
_STUB = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" '
    b'xmpNote:HasExtendedXMP="%s"/></rdf:RDF></x:xmpmeta>'
)


def read(data: bytes) -> Metadata:
    """The metadata of a JPEG; profiles and extensions that are not whole are left out."""
    exif = xmp = b""
    profile: dict[int, bytes] = {}
    parts = 0
    more: dict[bytes, dict[int, bytes]] = {}
    for marker, body in _segments(data):
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


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The application segments before the first scan, by marker."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in (0xD9, 0xDA):
            return
        if marker == 0xFF:
            at = behind_filling(data, at)
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        length = data[at + 2] << 8 | data[at + 3]
        if marker == 0xE1 or marker == 0xE2:
            yield marker, data[at + 4 : at + 2 + length]
        at += 2 + max(2, length)


def behind_filling(data: bytes, at: int) -> int:
    """Where a marker begins that has more of its first byte before it (ITU-T T.81, B.1.1.2)."""
    filling = _FILLING.match(data, at)
    return filling.end() - 1 if filling else at


def _extension(xmp: bytes, more: dict[bytes, dict[int, bytes]]) -> bytes:
    """The extension that the packet names, where it is whole."""
    named = _EXTENDED.search(xmp)
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
    """A JPEG with the metadata behind its JFIF segment.

    Raises:
        UnsupportedImage: it does not fit into segments.
    """
    if metadata == NO_METADATA:
        return data
    at = 4 + int.from_bytes(data[4:6]) if data[2:4] == b"\xff\xe0" else 2
    return b"".join((data[:at], *written(metadata), data[at:]))


def written(metadata: Metadata) -> Iterator[bytes]:
    """The segments that hold it.

    Raises:
        UnsupportedImage: it does not fit into segments.
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
    """A packet that is too large for a segment becomes the extension of an empty one."""
    if len(xmp) > _ROOM - len(_XMP):
        if extension:
            raise _too_large("XMP", xmp)
        extension, xmp = xmp, _STUB
    guid = hashlib.md5(extension, usedforsecurity=False).hexdigest().upper().encode()
    if xmp is _STUB:
        xmp = _STUB % guid
    elif extension:
        xmp = _EXTENDED.sub(lambda found: found[0][:-32] + guid, xmp)
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
