"""The metadata of a JPEG: EXIF, XMP, profiles, IPTC, density, comments, and what stands behind the image.

Exif 2.32, 4.7.2; XMP specification part 3, 1.1.3; ICC.1:2022, annex B.4; JFIF 1.02.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from msgspec.structs import replace

from imageloom.codecs import photoshop, pictures, xmp
from imageloom.codecs.bits import MOST_AT_ONCE, MoreNeeded
from imageloom.codecs.exif import stated_orientation
from imageloom.codecs.metadata import COMMENT, NO_METADATA, Density, Metadata, Text
from imageloom.codecs.segments import (
    APP0,
    APP1,
    APP2,
    APP11,
    APP13,
    APP14,
    COM,
    FRAMES,
    ICC,
    MOST_SEARCHED,
    OPTIONAL,
    ROOM,
    SOS,
    end_of_image,
    ends_early,
    segment,
    walk,
)
from imageloom.codecs.stated import colours_of
from imageloom.errors import CorruptImage, LimitExceeded, UnsupportedImage
from imageloom.model import Thing

_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_MORE_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_JFIF, _JFXX = b"JFIF\0", b"JFXX\0"
_TIFF = (b"II*\0", b"MM\0*")
_UNITS = ("none", "inch", "cm")
_MOST_VIDEO = 64 << 20
"""Maximum size of the video of a motion photo, in bytes."""
_EOI = b"\xff\xd9"
_DENSITY_AT = 13
"""Offset of the density in a file that begins with a JFIF segment."""
_EXTENDED = rb"HasExtendedXMP\s*(?:=\s*[\"']|>)\s*([0-9A-Fa-f]{32})"
_STUB = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" '
    b'xmpNote:HasExtendedXMP="%s"/></rdf:RDF></x:xmpmeta>'
)


class Orientation:
    """The orientation of a file from its segments: of the first EXIF block, or else of the first XMP packet."""

    def __init__(self) -> None:
        self._exif = self._xmp = b""

    def add(self, body: bytes) -> None:
        """Take the body of an APP1 segment."""
        if body.startswith(_EXIF):
            if not self._exif or (_continues(body) and len(self._exif) < MOST_AT_ONCE):
                self._exif += body[len(_EXIF) :]
        elif body.startswith(_XMP):
            self._xmp = self._xmp or body[len(_XMP) :]

    @property
    def value(self) -> int:
        if not self._exif and not self._xmp:
            return 1
        return stated_orientation(self._exif) or xmp.orientation(self._xmp) or 1

    @property
    def exif(self) -> bytes:
        return self._exif


def _continues(body: bytes) -> bool:
    """Whether an EXIF segment is the rest of a block that is too long for one segment."""
    return not body.startswith(_TIFF, len(_EXIF))


class _Found:
    """The metadata in the segments of a file."""

    def __init__(self) -> None:
        self.exif: list[bytes] = []
        self.xmp = b""
        self.more: dict[bytes, dict[int, bytes]] = {}
        self.profile: list[bytes] = []
        self.resources: list[bytes] = []
        self.density: Density | None = None
        self.texts: list[Text] = []
        self.entries: list[tuple[int, int, int]] = []
        self.things: set[Thing] = set()

    def app0(self, body: bytes, start: int) -> None:
        if body.startswith(_JFIF) and len(body) >= 12:
            x, y = int.from_bytes(body[8:10]), int.from_bytes(body[10:12])
            if body[7] < len(_UNITS) and x and y and (body[7] or x != y):
                self.density = Density(x, y, _UNITS[body[7]])  # type: ignore[arg-type]
            if len(body) >= 14 and body[12] * body[13]:
                self.things.add("thumbnail")
        elif body.startswith(_JFXX):
            self.things.add("thumbnail")
        else:
            self.things.add("private metadata")

    def app1(self, body: bytes, start: int) -> None:
        if body.startswith(_EXIF):
            if self.exif and not _continues(body):
                self.things.add("damaged metadata")  # a second block, which may contradict the first
            elif sum(map(len, self.exif)) < MOST_AT_ONCE:
                self.exif.append(body[len(_EXIF) :])
        elif body.startswith(_XMP):
            if self.xmp and body[len(_XMP) :] != self.xmp:
                self.things.add("damaged metadata")
            self.xmp = self.xmp or body[len(_XMP) :]
        elif body.startswith(_MORE_XMP):
            at = len(_MORE_XMP)
            offset = int.from_bytes(body[at + 36 : at + 40])
            self.more.setdefault(body[at : at + 32].upper(), {})[offset] = body[at + 40 :]
        else:
            self.things.add("private metadata")

    def app2(self, body: bytes, start: int) -> None:
        if body.startswith(ICC):
            self.profile.append(body[len(ICC) :])
        elif body.startswith(pictures.MPF):
            at = start + len(pictures.MPF)
            self.entries += pictures.entries_of(body[len(pictures.MPF) :], at)
        elif not body.startswith(pictures.ISO_GAIN_MAP):  # that is written anew with the gain map
            self.things.add("private metadata")

    def app13(self, body: bytes, start: int) -> None:
        if body.startswith(photoshop.PREFIX):
            self.resources.append(body[len(photoshop.PREFIX) :])
        else:
            self.things.add("private metadata")

    def app14(self, body: bytes, start: int) -> None:
        if not body.startswith(b"Adobe"):  # that one describes the encoding of the colours
            self.things.add("private metadata")

    def app11(self, body: bytes, start: int) -> None:
        """JUMBF boxes sign the old pixels (ISO 19566-5; C2PA)."""
        self.things.add("content credentials" if body.startswith(b"JP") else "private metadata")

    def comment(self, body: bytes, start: int) -> None:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            text = body.decode("latin-1")
        self.texts.append(Text(COMMENT, text))

    def other(self, body: bytes, start: int) -> None:
        self.things.add("private metadata")


_HANDLERS = {
    APP0: _Found.app0,
    APP1: _Found.app1,
    APP2: _Found.app2,
    APP11: _Found.app11,
    APP13: _Found.app13,
    APP14: _Found.app14,
    COM: _Found.comment,
}


def read(data: bytes) -> Metadata:
    """The metadata of a JPEG, without incomplete profiles and extensions.

    Raises:
        LimitExceeded: the data behind the image is too large to be copied.
    """
    found, scan = _Found(), 0
    with suppress(MoreNeeded, CorruptImage):
        for marker, start, end in walk(data):
            if marker in OPTIONAL:
                _HANDLERS.get(marker, _Found.other)(found, data[start:end], start)
            elif marker in FRAMES and data[start + 5 : start + 6] == b"\4":
                found.things.add("CMYK")
            elif marker == SOS:
                scan = start
    things = found.things
    icc = profile_of(found.profile, things) if "CMYK" not in things else b""
    resources = photoshop.Resources()
    if found.resources:
        resources = photoshop.read(b"".join(found.resources))
        things |= {"thumbnail"} if resources.has_thumbnail else set()
        things |= {"private metadata"} if resources.has_others else set()
        if resources.density and not found.density:
            found.density = Density(*resources.density)
    behind = pictures.Behind()
    if len(data) > MOST_SEARCHED:
        things |= {"private metadata"} if data[-2:] != _EOI else set()
    elif scan and (data[-2:] != _EOI or found.entries or ends_early(data, scan)):
        behind = pictures.behind(data, end_of_image(data, scan), found.xmp, found.entries)
        if len(behind.gain_map) > MOST_AT_ONCE or len(behind.video) > _MOST_VIDEO:
            raise LimitExceeded("the video or the gain map behind the image is too large (--metadata strip)")
    things |= set(behind.found)
    extension = _extension(found.xmp, found.more) if found.more else b""
    if not extension and (found.more or b"HasExtendedXMP" in found.xmp):
        things.add("damaged metadata")
    return Metadata(
        exif=b"".join(found.exif),
        xmp=found.xmp,
        extended_xmp=extension,
        icc=icc,
        iptc=resources.iptc,
        photoshop=resources.lasting,
        density=found.density,
        texts=tuple(found.texts),
        gain_map=behind.gain_map,
        video=behind.video,
        found=tuple(sorted(things)),
    )


def stated(parts: list[bytes], exif: bytes, channels: int) -> str:
    """What the segments of a profile and of EXIF state of the colours, as a text of `colours`."""
    return colours_of(Metadata(exif, icc=profile_of(parts, set())), channels) if parts or exif else ""


def stored_profile(data: bytes) -> bytes:
    """The profile of a file, of whatever colours; empty if it is not complete."""
    parts = [
        data[start + len(ICC) : end]
        for marker, start, end in walk(data)
        if marker == APP2 and data[start : start + len(ICC)] == ICC
    ]
    return profile_of(parts, set())


def profile_of(parts: list[bytes], things: set[Thing]) -> bytes:
    """The colour profile. Parts that are numbered wrongly are in their order if the profile's size is right."""
    if not parts:
        return b""
    parts = list(dict.fromkeys(parts))  # some writers repeat the profile
    if sorted(part[0] for part in parts if len(part) > 2) == list(range(1, parts[0][1] + 1)):
        return b"".join(part[2:] for part in sorted(parts, key=lambda part: part[0]))
    joined = b"".join(part[2:] for part in parts)
    if len(joined) >= 128 and int.from_bytes(joined[:4]) == len(joined):
        return joined
    things.add("colour profile")
    return b""


def _extension(packet: bytes, more: dict[bytes, dict[int, bytes]]) -> bytes:
    """The extension that the packet refers to, if it is complete."""
    named = re.search(_EXTENDED, packet)
    if named is None:
        return b""
    parts = more.get(named[1].upper(), {})
    joined = b"".join(parts[offset] for offset in sorted(parts))
    is_whole = hashlib.md5(joined, usedforsecurity=False).hexdigest().upper() == named[1].upper().decode()
    return joined if is_whole else b""


_MOST_DENSE = 65_535


class Around(NamedTuple):
    """What stands around the image of a file."""

    density: bytes = b""
    """The unit and the resolution of the JFIF segment; empty: as the encoder writes them."""
    segments: bytes = b""
    """The segments behind the JFIF segment."""
    behind: bytes = b""
    """The bytes behind the image."""
    gain_map: int = 0
    """Size of the gain map at the start of `behind`. An index of it must follow the segments."""


def around(metadata: Metadata) -> Around:
    """What a file with this metadata has around its image.

    Raises:
        UnsupportedImage: the metadata does not fit into segments.
    """
    return Around(
        resolution(metadata.density) if metadata.density else b"",
        b"".join(_segments(metadata)),
        metadata.gain_map + metadata.video,
        len(metadata.gain_map),
    )


def resolution(density: Density) -> bytes:
    """The unit and the resolution of a JFIF segment; empty if it cannot hold them."""
    sides = (density.x, density.y)
    if density.unit == "inch" and max(sides) >= _MOST_DENSE:
        density, sides = replace(density, unit="cm"), (density.x / 2.54, density.y / 2.54)
    if not all(0.5 <= value < _MOST_DENSE for value in sides):
        return b""
    return bytes((_UNITS.index(density.unit),)) + b"".join(round(value).to_bytes(2) for value in sides)


def insert(data: bytes, metadata: Metadata) -> bytes:
    """Insert metadata into a JPEG that begins with a JFIF segment.

    Raises:
        UnsupportedImage: the metadata does not fit into segments.
    """
    if metadata == NO_METADATA:
        return data
    made = around(metadata)
    at = 4 + int.from_bytes(data[4:6])
    start = with_density(data[:at], made.density) + made.segments
    if made.gain_map:
        image = len(start) + pictures.INDEX_LENGTH + len(data) - at
        start += pictures.index(image, len(start), made.gain_map)
    return b"".join((start, data[at:], made.behind))


def with_density(start: bytes, density: bytes) -> bytes:
    """The first bytes of a file up to its JFIF segment, with a density."""
    if not density:
        return start
    return start[:_DENSITY_AT] + density + start[_DENSITY_AT + len(density) :]


def _segments(metadata: Metadata) -> Iterator[bytes]:
    """The segments for the metadata.

    Raises:
        UnsupportedImage: the metadata does not fit into segments.
    """
    yield from _split(APP1, _EXIF, metadata.exif)
    yield from _written_xmp(metadata.xmp, metadata.extended_xmp)
    step = ROOM - 14
    parts = [metadata.icc[i : i + step] for i in range(0, len(metadata.icc), step)]
    if len(parts) > 255:
        raise _too_large("colour profile", metadata.icc)
    for i, part in enumerate(parts):
        yield segment(APP2, ICC, bytes((i + 1, len(parts))), part)
    yield from _split(APP13, photoshop.PREFIX, photoshop.written(metadata.iptc, metadata.photoshop))
    for text in metadata.texts:
        if text.keyword == COMMENT:
            yield from _split(COM, b"", text.text.encode(errors="replace"))
    if pictures.ISO_GAIN_MAP in metadata.gain_map:
        yield segment(APP2, pictures.ISO_GAIN_MAP, bytes(4))


def _split(marker: int, prefix: bytes, body: bytes) -> Iterator[bytes]:
    """As many segments as the body needs. Readers join the bodies of EXIF and Photoshop segments."""
    step = ROOM - len(prefix)
    for at in range(0, len(body), step):
        yield segment(marker, prefix, body[at : at + step])


def _written_xmp(packet: bytes, extension: bytes) -> Iterator[bytes]:
    """The segments for XMP. A packet too large for one segment becomes the extension of an empty packet."""
    if len(packet) > ROOM - len(_XMP):
        if extension:
            raise _too_large("XMP", packet)
        extension, packet = packet, _STUB
    guid = hashlib.md5(extension, usedforsecurity=False).hexdigest().upper().encode()
    if packet is _STUB:
        packet = _STUB % guid
    elif extension:
        packet = re.sub(_EXTENDED, lambda found: found[0][:-32] + guid, packet)
    if packet:
        yield segment(APP1, _XMP, packet)
    step = ROOM - len(_MORE_XMP) - 40
    for i in range(0, len(extension), step):
        head = guid + len(extension).to_bytes(4) + i.to_bytes(4)
        yield segment(APP1, _MORE_XMP, head, extension[i : i + step])


def _too_large(what: str, data: bytes) -> UnsupportedImage:
    return UnsupportedImage(f"a JPEG cannot hold its {what} of {len(data):,} bytes (--metadata strip)")
