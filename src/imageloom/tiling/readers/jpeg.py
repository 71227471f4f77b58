"""JPEGs whose restart intervals end with their rows of MCUs: each strip can be decoded separately.

Coefficients do not depend on data before a restart marker (ITU-T T.81, E.2.4 and F.1.1.5.1). Other JPEGs are read
in order with libvips.
"""

from __future__ import annotations

import re
from math import gcd
from pathlib import Path
from typing import NamedTuple

from imageloom import codecs
from imageloom.codecs.bits import MoreNeeded
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.piecewise.jpeg import APP0, BASELINE, CYCLE, END, EOI, SOS, restart
from imageloom.codecs.piecewise.pieces import Pieces, check_box
from imageloom.codecs.repair import check_regular
from imageloom.codecs.segments import walk
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Frame, Header, Pixels
from imageloom.tiling.readers.files import RandomFile

_DHT, _DQT, _DRI, _APP14 = 0xC4, 0xDB, 0xDD, 0xEE
_NEEDED = (*BASELINE, _DHT, SOS, _DQT, _DRI, APP0, _APP14)
"""Segments that a decoder needs. The colour space depends on APP0 and APP14."""
_MARKER = re.compile(rb"\xff[\xd0-\xd7\xd9]")
_CHUNK = 1 << 20
_MOST_HEAD = 1 << 20
"""Maximum size of the segments that are repeated for each strip, in bytes."""
_MOST_CODED = 8
"""Maximum size of a sample in bytes, in addition to `_CHUNK` for a strip: a code has up to 16 bits and its value
up to 11, and a byte of 255 is followed by a zero."""
_MOST_ROWS = 8
"""Maximum number of rows of MCUs between two restart points. Above it, reading in order is better."""
_MARGIN = 8
"""Rows around a box on which its pixels may depend: chroma is interpolated from neighbouring samples."""
_STRIP = 1 << 21
"""Approximate number of pixels of a strip."""


class _Layout(NamedTuple):
    """The layout of a file, from its header."""

    head: bytes
    """The segments that a decoder needs, up to the entropy-coded data."""
    height_at: int
    """Offset of the height in them."""
    start: int
    """Offset of the entropy-coded data in the file."""
    frame: Frame
    group: int
    """Number of rows of pixels after which a row of MCUs and a restart interval end together."""
    intervals: int
    """Number of restart intervals in such a group."""


class Reader:
    """Regions of a baseline JPEG whose restart intervals end with its rows of MCUs.

    Rows are decoded in their full width: the pieces are strips. It is thread-safe.

    Args:
        damage: where damage of strips is reported.

    Raises:
        CorruptImage: the header is damaged.
        UnsupportedImage: it is another kind of JPEG, which can only be decoded in order, or it needs a repair.
        UnreadableItem: the file cannot be read.
    """

    random = True

    def __init__(self, path: Path, damage: DamageLog | None = None) -> None:
        self._damage = damage or DamageLog()
        self._file = RandomFile(path)
        try:
            self._layout = _layout(self._file)
            self._file.check_size(self._layout.frame)
            with self._file.mapped() as data:
                check_regular(data)
            self._starts = self._find_groups()
        except MoreNeeded:
            self._file.close()
            raise CorruptImage("the JPEG is cut off within its header") from None
        except BaseException:
            self._file.close()
            raise
        self.frame, group = self._layout.frame, self._layout.group
        width = self.frame.width
        self.pieces = Pieces(self.frame, width, group * max(1, _STRIP // (group * width)))

    def read(self, x0: int, y0: int, x1: int, y1: int) -> Pixels:
        """The pixels of a box, equal to those of the whole file decoded.

        Raises:
            CorruptImage: these rows are damaged.
        """
        check_box(self.frame, x0, y0, x1, y1)
        height, group = self.frame.height, self._layout.group
        first = max(0, y0 - _MARGIN) // group
        last = -(-min(height, y1 + _MARGIN) // group)
        top = first * group
        rows = self._decode(first, last, min(last * group, height) - top)
        return rows[y0 - top : y1 - top, x0:x1]

    def close(self) -> None:
        self._file.close()

    def _decode(self, first: int, last: int, height: int) -> Pixels:
        """Decode the rows of some groups as a separate file, whose restart markers count from RST0."""
        layout = self._layout
        start, end = self._starts[first], self._starts[last] - 2
        if end - start > _MOST_CODED * height * self.frame.width * self.frame.channels + _CHUNK:
            raise CorruptImage(f"{self._rows(first, height)} have more bytes than their pixels can need")
        head = len(layout.head)
        data = bytearray(head + end - start + 2)
        view = memoryview(data)
        view[:head] = layout.head
        view[layout.height_at : layout.height_at + 2] = height.to_bytes(2)
        self._file.read_into(view[head:-2], start)
        view[-2:] = END
        if first * layout.intervals % CYCLE:
            for number, marker in enumerate(_MARKER.finditer(view[head:-2])):
                at = head + marker.start()
                view[at : at + 2] = restart(number)
        frame = Frame(self.frame.width, height, self.frame.channels)
        header = Header("jpeg", frame)
        try:
            return codecs.decode(bytes(data), header, damage=self._damage)
        except CorruptImage as error:
            raise CorruptImage(f"{self._rows(first, height)} are damaged: {error}") from None

    def _rows(self, first: int, height: int) -> str:
        top = first * self._layout.group
        return f"the JPEG's rows {top} to {top + height - 1}"

    def _find_groups(self) -> list[int]:
        """The offset of each group in the file, and of the end of the last group.

        In entropy-coded data a byte of 0xFF that is followed by anything but zero begins a marker.
        """
        layout = self._layout
        groups = -(-layout.frame.height // layout.group)
        starts, seen, at = [layout.start], 0, layout.start
        while len(starts) <= groups + 1:
            chunk = self._file.read(at, min(_CHUNK, self._file.size - at))
            for marker in _MARKER.finditer(chunk):
                found = at + marker.end()
                if chunk[marker.start() + 1] == EOI:
                    starts.append(found)
                    break
                seen += 1
                if seen % layout.intervals == 0:
                    starts.append(found)
            else:
                if len(chunk) < _CHUNK:
                    raise UnsupportedImage("the JPEG is cut off")
                at += _CHUNK - 1
                continue
            break
        if len(starts) != groups + 1:
            raise UnsupportedImage(
                f"the JPEG has {len(starts) - 1} of its {groups} rows of restart intervals"
            )
        return starts


def _layout(file: RandomFile) -> _Layout:
    """Read a header."""
    parts, height_at, interval, sampling = [b"\xff\xd8"], 0, 0, b""
    frame, end, scanned, needed = None, 0, 0, 0
    view = file.view()
    for marker, start, end in walk(view):
        if 0xC0 <= marker <= 0xCF and marker not in (*BASELINE, _DHT, SOS):
            raise UnsupportedImage("the JPEG is not baseline")
        if marker not in _NEEDED:
            continue
        needed += end - start
        if needed > _MOST_HEAD:
            raise UnsupportedImage("the JPEG's header is too large to be repeated for its strips")
        body = view[start:end]
        parts.append(view[start - 4 : start] + body)
        if marker == _DRI:
            interval = int.from_bytes(body[:2])
        elif marker in BASELINE:
            height_at = sum(map(len, parts)) - len(body) + 1
            frame = Frame(int.from_bytes(body[3:5]), int.from_bytes(body[1:3]), body[5])
            sampling = body[7::3]
        elif marker == SOS:
            scanned = body[0]
    if frame and not frame.height:
        raise UnsupportedImage("the JPEG defines its height at its end")
    if frame is None or not frame.pixels or len(sampling) != frame.channels or not min(sampling):
        raise CorruptImage("the JPEG header is damaged")
    if frame.channels not in (1, 3) or scanned != frame.channels:
        raise UnsupportedImage("the JPEG has several scans")
    if not interval:
        raise UnsupportedImage("the JPEG has no restart markers")
    # A scan of one component has MCUs of one block, whatever its sampling says (T.81, A.2.2).
    wide = 8 * max(s >> 4 for s in sampling) if frame.channels == 3 else 8
    tall = 8 * max(s & 15 for s in sampling) if frame.channels == 3 else 8
    across = -(-frame.width // wide)
    common = gcd(across, interval)
    rows, intervals = interval // common, across // common
    if rows > _MOST_ROWS:
        raise UnsupportedImage("the JPEG's restart intervals do not end with its rows")
    return _Layout(b"".join(parts), height_at, end, frame, rows * tall, intervals)
