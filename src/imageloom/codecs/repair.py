"""Damaged JPEGs: what can be repaired without a change of pixels is, and the rest is decoded as far as possible.

Viewers show many files that strict decoders refuse. The bytes of such a file are repaired first; then a strict
decoder decides whether all pixels are there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from mmap import mmap
from typing import NamedTuple

import numpy as np

from imageloom.codecs.damage import DamageLog
from imageloom.codecs.segments import (
    ANY_MARKER,
    APP0,
    APP2,
    APP14,
    BARE,
    BEHIND_CODED,
    DNL,
    EOI,
    FRAME,
    FRAMES,
    ICC,
    MOST_SEGMENTS,
    OPTIONAL,
    SEQUENTIAL,
    SOI,
    SOS,
    check_scans,
    segment,
    subsampling,
)
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Pixels

_SPECTRUM = bytes((0, 63, 0))
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_MOST_PASSES, _MOST_PLACES = 3, 12
"""Maximum number of repairs of the entropy-coded data, and of places that are tried for one."""
_STRANGE_SAMPLING = "subsampling level"
_STRANGE_ORDER = "Inconsistent progression"

_CUT = "the end of the image is not marked"
_GRAY, _EDGE = 128, 8
"""The value of missing pixels, and the number of columns at the end of a row that show whether it is complete."""

Decoder = Callable[[bytes], Pixels]


class Decoders(NamedTuple):
    """Decoders of one library or another."""

    strict: Decoder
    """Decodes a file, or raises ValueError with a message of libjpeg."""
    probe: Decoder
    """The same at a smaller size, which is faster."""
    lenient: Decoder
    """The same as `strict`, without the errors after which decoding can continue."""
    other: Decoder
    """Decodes any sampling, and ignores damage."""
    height: int
    """Number of rows of the whole image, which may be decoded at a smaller size."""


class Piece(NamedTuple):
    """A part of the repaired file: bytes of the file, or new bytes."""

    start: int
    end: int
    new: bytes | None = None
    coded: bool = False
    """It is entropy-coded data."""


class _Examined:
    """The parts of a file that a decoder needs, repaired.

    Raises:
        CorruptImage: the file is cut off in its header, or it has no image.
        UnsupportedImage: it has too many segments.
    """

    def __init__(self, data: bytes | mmap) -> None:
        self._data = data
        self._faults: dict[str, None] = {}
        self.pieces: list[Piece] = [Piece(0, 2)]
        self._frame = 0
        self._frame_at = -1
        """Number of the piece that is the frame header."""
        self._profile: list[bytes] = []
        self._exact: dict[int, set[int]] = {}
        """The coefficients of each component whose last bit a scan has had."""
        self._ended = False
        at = 2
        for _ in range(MOST_SEGMENTS):
            at = self._segment(at)
            if self._ended:
                break
        else:
            raise UnsupportedImage(f"JPEG with more than {MOST_SEGMENTS:,} segments is not supported")
        if not any(piece.coded for piece in self.pieces):
            raise CorruptImage("the JPEG has no scan")
        numbers = sorted(part[0] for part in self._profile)
        if self._profile and numbers != list(range(1, self._profile[0][1] + 1)):
            self._fault("the parts of the colour profile are numbered wrongly")

    @property
    def faults(self) -> tuple[str, ...]:
        return tuple(self._faults)

    @property
    def is_strange(self) -> bool:
        """Whether libraries may decode it differently, or not at all, though it is not damaged."""
        if self._frame_at < 0:
            return False
        piece = self.pieces[self._frame_at]
        frame = self._data[piece.start + 4 : piece.start + 4 + FRAME]
        return piece.new is not None or (frame[5] == 3 and subsampling(frame) is None)

    @property
    def lacks_scans(self) -> bool:
        """Whether there is no scan for some coefficients of a component."""
        piece = self.pieces[self._frame_at]
        components = self._data[piece.start + 10 : piece.end : 3]
        return any(len(self._exact.get(component, ())) < 64 for component in components)

    def joined(self) -> bytes:
        """The repaired file."""
        whole = memoryview(self._data)
        try:
            return b"".join(
                whole[piece.start : piece.end] if piece.new is None else piece.new for piece in self.pieces
            )
        finally:
            whole.release()

    def _fault(self, what: str) -> None:
        self._faults[what] = None

    def _segment(self, at: int) -> int:
        """Examine the segment at a position. Returns the position behind it."""
        data = self._data
        found = ANY_MARKER.search(data, at)
        if found is None:
            return self._end(_CUT)
        if stray := len(data[at : found.start()].rstrip(b"\xff")):
            self._fault(f"{stray} stray {'byte' if stray == 1 else 'bytes'} between segments")
        marker, start = found[0][1], found.start()
        if marker == EOI:
            return self._end()
        if marker == SOI:
            raise CorruptImage(f"the JPEG has a second image inside its first one, at byte {start}")
        if marker in BARE:
            return found.end()
        length = int.from_bytes(data[start + 2 : start + 4])
        if length < 2:
            if marker not in OPTIONAL:
                raise CorruptImage(f"the JPEG is damaged at byte {start}")
            return start + 4
        end = start + 2 + length
        if end > len(data):
            if any(piece.coded for piece in self.pieces):
                return self._end(_CUT)
            raise CorruptImage("the JPEG is cut off within its header")
        self._take(marker, start, end)
        return self._scan(end) if marker == SOS else end

    def _end(self, fault: str = "") -> int:
        if fault:
            self._fault(fault)
        self.pieces.append(Piece(0, 0, bytes((0xFF, EOI))))
        self._ended = True
        return 0

    def _take(self, marker: int, start: int, end: int) -> None:
        """Add a segment, if the decoder needs it."""
        body = self._data[start + 4 : end]
        new = None
        if marker in FRAMES:
            self._frame, self._frame_at = marker, len(self.pieces)
        elif marker == DNL:
            self._set_height(body[:2])
            return
        elif marker == SOS and self._frame in SEQUENTIAL and body[-3:] != _SPECTRUM:
            self._fault("the parameters of a scan are not those of a sequential JPEG")
            new = segment(marker, body[:-3], _SPECTRUM)
            self._note(new[4:])
        elif marker == APP0 and body.startswith(b"JFIF\0") and body[5:6] > b"\2":
            self._fault("the version of JFIF is unknown")
            new = segment(marker, body[:5], b"\1", body[6:])
        elif marker == APP14 and body.startswith(b"Adobe") and body[11:12] > b"\2":
            self._fault("the colour transform of Adobe's segment is unknown")
            new = segment(marker, body[:11], b"\1", body[12:])
        elif marker in OPTIONAL and marker not in (APP0, APP14):
            if marker == APP2 and body.startswith(ICC) and len(body) > len(ICC) + 1:
                self._profile.append(body[len(ICC) : len(ICC) + 2])
            return
        elif marker == SOS:
            self._note(body)
        self.pieces.append(Piece(start, end, new))

    def _note(self, body: bytes) -> None:
        """Note what a scan of a progressive image has."""
        first, last, bits = body[-3:]
        if not bits & 15:
            for component in body[1:-3:2]:
                self._exact.setdefault(component, set()).update(range(first, last + 1))

    def _set_height(self, height: bytes) -> None:
        """Put the number of lines that is defined behind the first scan into the frame header (T.81, B.2.5)."""
        if self._frame_at < 0:
            return
        piece = self.pieces[self._frame_at]
        frame = self._data[piece.start : piece.end] if piece.new is None else piece.new
        if frame[5:7] == b"\0\0":
            self.pieces[self._frame_at] = piece._replace(new=frame[:5] + height + frame[7:])

    def _scan(self, start: int) -> int:
        """Add the entropy-coded data of a scan. Returns its end."""
        found = BEHIND_CODED.search(self._data, start)
        end = found.start() if found else len(self._data)
        self.pieces.append(Piece(start, end, coded=True))
        return end


def check_regular(data: bytes | mmap) -> None:
    """Check that a file needs no repair, as far as its segments show; the entropy-coded data is not examined.

    Raises:
        UnsupportedImage: it needs a repair, or a decoder for unusual samplings.
        CorruptImage: it has no image.
    """
    examined = _Examined(data)
    if examined.faults:
        raise UnsupportedImage(f"the JPEG needs a repair: {examined.faults[0]}")
    if examined.is_strange:
        raise UnsupportedImage("the JPEG has an unusual sampling, or defines its height at the end")


def decode(data: bytes, decoders: Decoders, damage: DamageLog) -> Pixels:
    """Decode a file that a strict decoder has refused.

    Raises:
        CorruptImage: it cannot be decoded, or the damage is not accepted.
        UnsupportedImage: it has too many scans.
    """
    check_scans(data)
    examined = _Examined(data)
    data = examined.joined()
    found = list(examined.faults)
    pixels, missing = _decode(data, decoders, found)
    if _CUT in found and not missing and examined.lacks_scans:
        missing = "its last scans are missing, so that it lacks detail"
    for fault in dict.fromkeys(found):
        damage.repaired(fault)
    if missing:
        damage.missing(missing)
    return pixels


def _decode(data: bytes, decoders: Decoders, found: list[str]) -> tuple[Pixels, str]:
    """The pixels, and what is missing of them. Repairs are added to `found`."""
    said = ""
    for _ in range(_MOST_PASSES):
        try:
            return decoders.strict(data), ""
        except ValueError as error:
            said = str(error)
        if _STRANGE_SAMPLING in said:
            pixels = decoders.other(data)
            return pixels, _missing_rows(pixels, decoders.height) if _CUT in found else ""
        if _STRANGE_ORDER in said:
            found.append("the order of the scans is unusual")
            return decoders.lenient(data), ""
        shorter = _without_extraneous(data, said, decoders.probe)
        if shorter is None:
            break
        data = shorter
        found.append("there are bytes too many at the end of a scan")
    with suppress(ValueError):
        pixels = decoders.strict(_renumbered(data))
        found.append("the restart markers are numbered wrongly")
        return pixels, ""
    pixels = decoders.lenient(data)
    return pixels, _missing_rows(pixels, decoders.height) or f"its pixels are damaged ({said})"


def _without_extraneous(data: bytes, said: str, probe: Decoder) -> bytes | None:
    """The file without the bytes that a decoder has skipped before a marker. None if that is not the fault.

    The decoder says how many bytes there were before which kind of marker, not where: each place is tried.
    """
    extraneous = _EXTRANEOUS.search(said)
    if extraneous is None:
        return None
    count, marker = int(extraneous[1]), int(extraneous[2], 16)
    places = [found.start() for found in re.finditer(re.escape(bytes((0xFF, marker))), data)]
    for place in reversed(places[-_MOST_PLACES:]):
        end = len(data[:place].rstrip(b"\xff"))
        shorter = data[: end - count] + data[end:]
        try:
            probe(shorter)
        except ValueError as error:
            if str(error) == said or not _EXTRANEOUS.search(str(error)):
                continue
        return shorter
    return None


def _renumbered(data: bytes) -> bytes:
    """The file with its restart markers counted anew.

    Raises:
        ValueError: they are numbered as they must be.
    """
    changed, number = bytearray(data), 0
    scan = data.find(bytes((0xFF, SOS)))
    for found in re.compile(rb"\xff[\xd0-\xd7\xda]").finditer(data, max(scan, 0)):
        if data[found.start() + 1] == SOS:
            number = 0
            continue
        changed[found.start() + 1] = 0xD0 + number % 8
        number += 1
    if changed == data:
        raise ValueError("the markers are right")
    return bytes(changed)


def _missing_rows(pixels: Pixels, height: int) -> str:
    """How many rows at the end are the gray that stands for missing data."""
    rows = (pixels[:, -_EDGE:].reshape(len(pixels), -1) == _GRAY).all(axis=1)
    present = len(rows) - int(np.argmin(rows[::-1])) if not rows.all() else 0
    missing = -(-(len(rows) - present) * height // len(rows))
    return f"the last {missing} of {height} rows are missing" if missing else ""
