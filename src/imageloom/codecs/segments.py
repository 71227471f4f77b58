"""The segments of a JPEG: markers, lengths, scans, and the end of the image (ITU-T T.81, annex B).

Stray bytes before a marker and segments without a valid length are skipped, as decoders do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from mmap import mmap
from struct import Struct

import numpy as np

from imageloom.codecs.bits import Data, MoreNeeded
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Subsampling

ROOM = 65_533
"""Maximum number of bytes in a segment after its length field."""
SOI, SOS, EOI, DNL, DRI, COM = 0xD8, 0xDA, 0xD9, 0xDC, 0xDD, 0xFE
APP0, APP1, APP2, APP11, APP13, APP14 = 0xE0, 0xE1, 0xE2, 0xEB, 0xED, 0xEE
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of frame headers."""
SEQUENTIAL = {0xC0, 0xC1, 0xC9}
"""Markers of frames whose scans have all coefficients: baseline, extended, arithmetic-coded."""
OPTIONAL = {*range(0xE0, 0xF0), COM}
"""Markers of segments that decoders may skip."""
BARE = {0x01, *range(0xD0, 0xD9)}
"""Markers without a length: TEM, RST0 to RST7, SOI."""
_WITHOUT_LENGTH = {*BARE, EOI, 0x00, 0xFF}
_NOT_BARE = _WITHOUT_LENGTH | OPTIONAL - {APP0}
_HEAD = Struct(">BBH")
"""A marker with its first byte, and the length of its segment."""
_USUAL_TABLES = re.compile(
    rb"(?s:\xff(?:\xdb\x00(?:\x43.{65}|\x84.{130})|\xc4(?:\x00\x1f.{29}|\x00\xb5.{179}|\x01\xa2.{416})|\xdd\x00\x04..))*"
)
"""Quantization tables, Huffman tables and restart intervals, as most files have them: with their usual lengths."""
_SCAN = bytes((0xFF, SOS))
_END = bytes((0xFF, EOI))
ICC = b"ICC_PROFILE\0"
"""The first bytes of the segments of a colour profile."""
_PLAIN_JFIF = b"JFIF\0" + b"\0\0\1\0\1\0\0"
"""The body of a JFIF segment, without its version, that has no resolution and no thumbnail."""
_SMALL = 8 << 10
"""In files of fewer bytes, bytes are searched faster than arrays are compared."""
MOST_SEARCHED = 256 << 20
"""Maximum size of a file in which the end of the image is searched for, in bytes."""
ANY_MARKER = re.compile(rb"\xff[^\x00\xff]")
BEHIND_CODED = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""A marker that ends entropy-coded data."""
_SAMPLINGS: dict[tuple[int, int], Subsampling] = {
    (1, 1): "444",
    (1, 2): "440",
    (2, 1): "422",
    (2, 2): "420",
    (4, 1): "411",
}
"""Chroma subsampling by the ratio of the luma's sampling factors to those of the chroma."""
MOST_SCANS = 100
"""Maximum number of scans. A progressive file has about ten; each scan is a pass over all coefficients."""
MOST_SEGMENTS = 1 << 16
"""Maximum number of segments. A large profile has 255."""


def walk(data: Data, tables: bool = True) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of the body of each segment, up to the first scan (ITU-T T.81, B.1).

    Args:
        tables: also those of quantization and Huffman tables. Without them it is faster; some may come anyway.

    Raises:
        MoreNeeded: the data ends too early.
        CorruptImage: a segment that is needed has an impossible length.
    """
    at, skips = 2, not tables and isinstance(data, bytes)
    for _ in range(MOST_SEGMENTS):
        if skips:
            at = _USUAL_TABLES.match(data, at).end()  # type: ignore[union-attr, arg-type]
        mark = data[at : at + 4]
        if len(mark) == 4:  # nearly every one: as fast as possible
            first, marker, length = _HEAD.unpack(mark)
            if first == 0xFF and length >= 2 and marker not in _WITHOUT_LENGTH:
                start, at = at + 4, at + 2 + length
                yield marker, start, at
                if marker == SOS:
                    return
                continue
        if len(mark) < 2:
            raise MoreNeeded
        marker = mark[1]
        if mark[0] != 0xFF or marker in _WITHOUT_LENGTH:
            if mark[0] == 0xFF and marker == EOI:
                return
            at = at + 2 if mark[0] == 0xFF and marker in BARE else _next_marker(data, at)
            continue
        if len(mark) < 4:
            raise MoreNeeded
        if marker not in OPTIONAL:  # it is too short to have a length
            raise CorruptImage(f"the JPEG header is damaged at byte {at}")
        at += 4
    raise UnsupportedImage(f"JPEG with more than {MOST_SEGMENTS:,} segments is not supported")


def is_bare(data: bytes) -> bool:
    """Whether a file is only an image: nothing in it is metadata, and nothing is behind it.

    This is asked of each file, so it is faster than `walk`. A file with stray bytes or damage counts as not bare.
    """
    at, last = 2, len(data) - _HEAD.size
    while (at := _USUAL_TABLES.match(data, at).end()) <= last:  # type: ignore[union-attr]
        first, marker, length = _HEAD.unpack_from(data, at)
        start, at = at + _HEAD.size, at + 2 + length
        if first != 0xFF or length < 2 or marker in _NOT_BARE:
            return False
        if marker == SOS:
            return data[-2:] == _END and (len(data) > MOST_SEARCHED or not ends_early(data, start))
        if marker == APP0 and data[start : start + 5] + data[start + 7 : at] != _PLAIN_JFIF:
            return False
        if marker in FRAMES and data[start + 5 : start + 6] == b"\4":
            return False
    return False


def ends_early(data: bytes, scan: int) -> bool:
    """Whether there is an EOI between the start of the first scan and the last two bytes of a file.

    Entropy-coded data has none. In large files, arrays are compared faster than bytes are searched.
    """
    if len(data) < _SMALL:
        return data.find(_END, scan, len(data) - 2) >= 0
    coded = np.frombuffer(data, np.uint8, len(data) - 2 - scan, scan)
    ends = coded[:-1] == 0xFF
    ends &= coded[1:] == EOI
    return bool(ends.any())


def _next_marker(data: Data, at: int) -> int:
    """The position of the next marker, after fill bytes (ITU-T T.81, B.1.1.2) or stray bytes."""
    while len(piece := data[at : at + ROOM]) > 1:
        if found := ANY_MARKER.search(piece):
            return at + found.start()
        at += len(piece) - 1
    raise MoreNeeded


def behind_scan(data: bytes | mmap, at: int) -> Iterator[tuple[int, int, int]]:
    """Marker, position and end of each segment after the first scan, which begins at `at`, up to EOI.

    Raises:
        UnsupportedImage: it has more segments than `MOST_SEGMENTS`.
    """
    for _ in range(MOST_SEGMENTS):
        mark = BEHIND_CODED.search(data, at)
        if mark is None:
            return
        start, marker = mark.start(), mark[0][1]
        at = mark.end()
        if marker not in BARE and marker != EOI:
            at += max(2, int.from_bytes(data[at : at + 2]))
        yield marker, start, at
        if marker == EOI:
            return
    raise UnsupportedImage(f"JPEG with more than {MOST_SEGMENTS:,} segments is not supported")


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
    found = 0
    for marker, _, _ in behind_scan(data, 2):
        found += marker == SOS
        if found > MOST_SCANS:
            raise UnsupportedImage(f"JPEG with more than {MOST_SCANS} scans is not supported")


def end_of_image(data: bytes, scan: int) -> int:
    """The position behind EOI of the image whose first scan begins at `scan`; the file's end if EOI is missing."""
    end = len(data)
    for marker, _, at in behind_scan(data, scan):
        if marker == EOI:
            end = at
    return end


def segment(marker: int, *parts: bytes) -> bytes:
    """A segment with these parts of a body, at most `ROOM` bytes together."""
    body = b"".join(parts)
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2) + body


FRAME = 15
"""Number of bytes in the body of a frame header with three components."""


def subsampling(frame: bytes) -> Subsampling | None:
    """The chroma subsampling of the body of a frame header; None if it has no usual name."""
    return _named(frame[7:FRAME:3])


@lru_cache(maxsize=64)
def _named(pairs: bytes) -> Subsampling | None:
    """The name of the sampling factors of three components."""
    factors = [(pair >> 4, pair & 15) for pair in pairs]
    if len(factors) != 3 or factors[1] != factors[2] or not all(factors[1]):
        return None
    (across, down), (chroma_across, chroma_down) = factors[:2]
    if across % chroma_across or down % chroma_down:
        return None
    return _SAMPLINGS.get((across // chroma_across, down // chroma_down))
