"""What stands behind the image of a JPEG: a gain map, a video, further pictures (CIPA DC-007; Ultra HDR 1.1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from imageloom.codecs import xmp
from imageloom.codecs.bits import MoreNeeded, number
from imageloom.codecs.segments import APP2, segment
from imageloom.codecs.tags import directory, order_of
from imageloom.errors import CorruptImage
from imageloom.model import Thing

MPF = b"MPF\0"
ISO_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"
"""The first bytes of the segments that describe a gain map by ISO 21496-1."""
_PICTURE = b"\xff\xd8\xff"
_SAMSUNG_VIDEO = b"MotionPhoto_Data"
_ENTRIES = 0xB002
_MOST_PICTURES = 64
_HDR_CLAIMS = (b"ns.adobe.com/hdr-gain-map", ISO_GAIN_MAP[:-1], b"hdrgainmap")


class Behind(NamedTuple):
    """What stands behind the image."""

    gain_map: bytes = b""
    video: bytes = b""
    found: tuple[Thing, ...] = ()
    """Other things."""


def behind(data: bytes, end: int, packet: bytes, entries: list[tuple[int, int, int]]) -> Behind:
    """Find what stands behind the image of a file.

    Args:
        end: the position behind the image.
        packet: the XMP of the file.
        entries: kind, position and size of the other pictures that the file's index names.
    """
    claimed = xmp.claims(packet)
    gain_map, video = b"", b""
    found: set[Thing] = set()
    covered: list[tuple[int, int]] = []
    for semantic, start, stop in _items(claimed, end, len(data)):
        if semantic == "GainMap" and data[start : start + 3] == _PICTURE:
            gain_map = data[start:stop]
        elif semantic == "MotionPhoto" and _is_video(data, start):
            video = data[start:stop]
        elif semantic in ("GainMap", "MotionPhoto"):
            continue
        else:
            found.add("pages")
        covered.append((start, stop))
    offset = len(data) - claimed.video_from_end
    if not video and claimed.video_from_end and offset >= end and _is_video(data, offset):
        video = data[offset:]
        covered.append((offset, len(data)))
    for kind, start, size in entries:
        picture = data[start : start + size]
        if picture[:3] != _PICTURE or any(a <= start < b for a, b in covered):
            continue
        covered.append((start, start + size))
        if not kind & 0xFF0000 and any(claim in picture[: 1 << 16] for claim in _HDR_CLAIMS):
            if gain_map or _HDR_CLAIMS[2] in picture[: 1 << 16]:
                found.add("gain map")
            else:
                gain_map = picture
        else:
            found.add("thumbnail" if kind & 0xFF0000 == 0x010000 else "pages")
    for start, stop in _gaps(covered, end, len(data)):
        found |= _kinds(data[start:stop])
    return Behind(gain_map, video, tuple(sorted(found)))


def _items(claimed: xmp.Claims, end: int, size: int) -> Iterator[tuple[str, int, int]]:
    """Semantics, start and end of what the container's directory names: one behind the other, the last up to the
    file's end."""
    at = end
    items = [item for item in claimed.items if item.length or item.semantic == "Primary"]
    for place, item in enumerate(items):
        if item.semantic == "Primary":
            at += item.padding
            continue
        start, stop = at, at + item.length
        if item.semantic == "MotionPhoto" and place == len(items) - 1 and size - item.length >= end:
            start, stop = size - item.length, size
        if stop <= size:
            yield item.semantic, start, stop
        at = stop + item.padding


def _is_video(data: bytes, at: int) -> bool:
    return data[at + 4 : at + 8] == b"ftyp"


def _gaps(covered: list[tuple[int, int]], at: int, end: int) -> Iterator[tuple[int, int]]:
    for start, stop in sorted(covered):
        if start > at:
            yield at, start
        at = max(at, stop)
    yield at, end


def _kinds(data: bytes) -> set[Thing]:
    """What bytes contain that nothing in the file announces. Padding is nothing."""
    if not data.strip(b"\0\xff\r\n "):
        return set()
    if _SAMSUNG_VIDEO in data or b"ftyp" in data[:64]:
        return {"video"}
    return {"pages"} if _PICTURE in data[: 1 << 16] else {"private metadata"}


def entries_of(index: bytes, at: int) -> list[tuple[int, int, int]]:
    """Kind, position in the file and size of the other pictures in the index of a file.

    Args:
        index: the body of the index, a TIFF structure.
        at: its position in the file.
    """
    with suppress(MoreNeeded, CorruptImage, KeyError):
        order = order_of(index)
        entry = directory(index, number(index, 4, 4, order), order).entries[_ENTRIES]
        places = range(entry.at, min(entry.at + entry.size, entry.at + 16 * _MOST_PICTURES) - 15, 16)
        fields = [[number(index, place + step, 4, order) for step in (0, 4, 8)] for place in places]
        return [(kind & 0xFFFFFF, at + offset, size) for kind, size, offset in fields if offset]
    return []


_INDEX_HEAD = (
    b"MM\0*\0\0\0\x08" + b"\0\3"
    b"\xb0\0\0\7\0\0\0\4" + b"0100"
    b"\xb0\1\0\4\0\0\0\1" + b"\0\0\0\2"
    b"\xb0\2\0\7\0\0\0\x20" + b"\0\0\0\x32" + bytes(4)
)  # fmt: skip
INDEX_LENGTH = 4 + len(MPF) + len(_INDEX_HEAD) + 32


def index(image: int, at: int, picture: int) -> bytes:
    """The segment with the index of an image and one picture behind it.

    Args:
        image: size of the image in bytes, this segment included.
        at: the position of the segment in the file.
        picture: size of the other picture in bytes.
    """
    offset = image - (at + 4 + len(MPF))
    first = (0x030000).to_bytes(4) + image.to_bytes(4) + bytes(8)
    second = bytes(4) + picture.to_bytes(4) + offset.to_bytes(4) + bytes(4)
    return segment(APP2, MPF, _INDEX_HEAD, first, second)
