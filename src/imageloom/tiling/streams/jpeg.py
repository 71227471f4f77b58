"""JPEG by strips: every row of MCUs is a restart interval, so that each strip is coded and decoded alone.

No coefficient is predicted across a restart marker (ITU-T T.81, E.2.4 and F.1.1.5.1). Rows of MCUs that
libjpeg-turbo has encoded one by one therefore join into one file, which decodes to the pixels of one that was
encoded whole. A file whose intervals end with its rows is read in the same way; others are read in order,
through libvips.
"""

from __future__ import annotations

import importlib
import re
from functools import lru_cache
from math import gcd
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, NamedTuple

import numpy as np

from imageloom.codecs.bits import MoreNeeded
from imageloom.codecs.segments import walk
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Frame, Pixels
from imageloom.tiling.streams import ordered
from imageloom.tiling.streams.files import RandomFile
from imageloom.tiling.streams.pieces import Pieces, check_box

_DHT, _EOI, _SOS, _DQT, _DRI, _APP0, _APP14 = 0xC4, 0xD9, 0xDA, 0xDB, 0xDD, 0xE0, 0xEE
_BASELINE = (0xC0, 0xC1)
_NEEDED = (*_BASELINE, _DHT, _SOS, _DQT, _DRI, _APP0, _APP14)
"""What a decoder needs; the colour space hangs on APP0 and APP14."""
_END = bytes((0xFF, _EOI))
_CYCLE = 8
"""Restart markers count from RST0 to RST7."""
_MARKER = re.compile(rb"\xff[\xd0-\xd7\xd9]")
_CHUNK = 1 << 20
_MOST_HEAD = 1 << 20
"""Bytes of segments that each strip is decoded with."""
_MOST_CODED = 8
"""Bytes that a sample may take, beyond `_CHUNK` for a strip: codes have 16 bits and what they announce 11, and a
byte of 255 is followed by a zero."""
_MOST_ROWS = 8
"""Rows of MCUs between two places to begin at; with more of them, reading in order is better."""
_MARGIN = 8
"""Rows beyond a box that its pixels may hang on: chroma is interpolated from the neighbouring samples."""
_STRIP, _PIECE = 1 << 21, 1 << 19
"""Pixels of a strip that is read, and of one that is written, about."""


@lru_cache(maxsize=1)
def _library() -> ModuleType:
    return importlib.import_module("simplejpeg")


class Encoder(ordered.FileEncoder, frozen=True):
    """Baseline JPEG, 4:2:0, with the Huffman tables of the specification's annex K."""

    quality: int = 85
    segments: bytes = b""
    """Application segments that go behind the JFIF header: EXIF, XMP, a profile."""

    @property
    def pieces(self) -> Pieces:
        """Strips of whole cycles of restart markers, so that each begins with RST0 behind its first row."""
        cycle = _CYCLE * _mcu_rows(self.frame)
        return Pieces(self.frame, self.frame.width, cycle * max(1, _PIECE // (cycle * self.frame.width)))

    def compress(self, pixels: Pixels) -> bytes:
        """The entropy-coded rows of MCUs of a strip, with the restart markers between them."""
        samples = np.ascontiguousarray(pixels).reshape(*pixels.shape[:2], self.frame.channels)
        start = len(_head(self.frame.channels, self.quality))
        step = _mcu_rows(self.frame)
        parts: list[bytes | memoryview] = []
        for row, y in enumerate(range(0, len(samples), step)):
            if row:
                parts.append(_restart(row - 1))
            parts.append(memoryview(_encoded(samples[y : y + step], self.quality))[start:-2])
        return b"".join(parts)

    def writer(self, file: BinaryIO, path: Path | None = None) -> ordered.Ordered:
        return _Writer(self, file, path)


class _Writer(ordered.Ordered):
    def __init__(self, encoder: Encoder, file: BinaryIO, path: Path | None) -> None:
        self._encoder = encoder
        super().__init__(len(encoder.pieces), file, path)

    def _begin(self) -> None:
        self._file.write(_head_of(self._encoder))

    def _append(self, data: bytes) -> None:
        if self._next:
            self._file.write(_restart(_CYCLE - 1))
        self._file.write(data)

    def _finish(self) -> None:
        self._file.write(_END)


def _mcu_rows(frame: Frame) -> int:
    """The height of an MCU that `_encoded` makes."""
    return 8 if frame.channels == 1 else 16


def _restart(number: int) -> bytes:
    return bytes((0xFF, 0xD0 + number % _CYCLE))


def _encoded(samples: Pixels, quality: int) -> bytes:
    gray = samples.shape[2] == 1
    data: bytes = _library().encode_jpeg(
        samples,
        quality,
        colorspace="GRAY" if gray else "RGB",
        colorsubsampling="Gray" if gray else "420",
    )
    return data


@lru_cache(maxsize=8)
def _head(channels: int, quality: int) -> bytes:
    """All up to the entropy-coded data, of a file of 8x8 pixels."""
    data = _encoded(np.zeros((8, 8, channels), np.uint8), quality)
    at = 2
    while data[at + 1] != _SOS:
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return data[: at + 2 + int.from_bytes(data[at + 2 : at + 4])]


def _head_of(encoder: Encoder) -> bytes:
    """The same with the size, the restart interval and the extra segments of a file."""
    frame, head = encoder.frame, _head(encoder.frame.channels, encoder.quality)
    across = -(-frame.width // _mcu_rows(frame))
    at, parts = 2, [head[:2]]
    while at < len(head):
        marker, end = head[at + 1], at + 2 + int.from_bytes(head[at + 2 : at + 4])
        if marker in _BASELINE:
            size = frame.height.to_bytes(2) + frame.width.to_bytes(2)
            parts.append(head[at : at + 5] + size + head[at + 9 : end])
        elif marker == _SOS:
            parts.append(b"\xff\xdd\0\4" + across.to_bytes(2) + head[at:end])
        else:
            parts.append(head[at:end])
        if marker == _APP0:
            parts.append(encoder.segments)
        at = end
    return b"".join(parts)


class _Layout(NamedTuple):
    """What the header of a file says."""

    head: bytes
    """All that a decoder needs, up to the entropy-coded data."""
    height_at: int
    """Where in it the height stands."""
    start: int
    """Where in the file the entropy-coded data begin."""
    frame: Frame
    group: int
    """Rows of pixels after which a row of MCUs and a restart interval end together."""
    intervals: int
    """Restart intervals of such a group."""


class Reader:
    """Regions of a baseline JPEG whose restart intervals end with its rows of MCUs.

    Rows are decoded in their full width: the pieces are strips. Threads may read at once.

    Raises:
        CorruptImage: the header is damaged, or markers are missing.
        UnsupportedImage: the file is of another kind, and can only be decoded in order.
        UnreadableItem: the file cannot be read.
    """

    random = True

    def __init__(self, path: Path) -> None:
        self._file = RandomFile(path)
        try:
            self._layout = _layout(self._file)
            self._file.check_size(self._layout.frame)
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
        """The rows of some groups, as a file of their own: its restart markers count from RST0."""
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
        view[-2:] = _END
        if first * layout.intervals % _CYCLE:
            for number, marker in enumerate(_MARKER.finditer(view[head:-2])):
                at = head + marker.start()
                view[at : at + 2] = _restart(number)
        gray = self.frame.channels == 1
        try:
            pixels: Pixels = _library().decode_jpeg(data, colorspace="GRAY" if gray else "RGB")
        except ValueError as error:
            raise CorruptImage(f"{self._rows(first, height)} are damaged: {error}") from None
        if pixels.shape[:2] != (height, self.frame.width):
            raise CorruptImage(f"{self._rows(first, height)} are damaged: they decode to another size")
        return pixels[:, :, 0] if gray else pixels

    def _rows(self, first: int, height: int) -> str:
        top = first * self._layout.group
        return f"the JPEG's rows {top} to {top + height - 1}"

    def _find_groups(self) -> list[int]:
        """Where in the file each group begins; at the end, where one would begin behind the last.

        In entropy-coded data a byte of 0xFF that is followed by anything but zero begins a marker.
        """
        layout = self._layout
        groups = -(-layout.frame.height // layout.group)
        starts, seen, at = [layout.start], 0, layout.start
        while len(starts) <= groups + 1:
            chunk = self._file.read(at, min(_CHUNK, self._file.size - at))
            for marker in _MARKER.finditer(chunk):
                found = at + marker.end()
                if chunk[marker.start() + 1] == _EOI:
                    starts.append(found)
                    break
                seen += 1
                if seen % layout.intervals == 0:
                    starts.append(found)
            else:
                if len(chunk) < _CHUNK:
                    raise CorruptImage("the JPEG is cut off")
                at += _CHUNK - 1
                continue
            break
        if len(starts) != groups + 1:
            raise CorruptImage(f"the JPEG has {len(starts) - 1} of its {groups} rows of restart intervals")
        return starts


def _layout(file: RandomFile) -> _Layout:
    """Read a header."""
    parts, height_at, interval, sampling = [b"\xff\xd8"], 0, 0, b""
    frame, end, scanned, needed = None, 0, 0, 0
    view = file.view()
    for marker, start, end in walk(view):
        if 0xC0 <= marker <= 0xCF and marker not in (*_BASELINE, _DHT, _SOS):
            raise UnsupportedImage("the JPEG is no baseline one")
        if marker not in _NEEDED:
            continue
        needed += end - start
        if needed > _MOST_HEAD:
            raise UnsupportedImage("the JPEG's header is too large to be repeated for its strips")
        body = view[start:end]
        parts.append(view[start - 4 : start] + body)
        if marker == _DRI:
            interval = int.from_bytes(body[:2])
        elif marker in _BASELINE:
            height_at = sum(map(len, parts)) - len(body) + 1
            frame = Frame(int.from_bytes(body[3:5]), int.from_bytes(body[1:3]), body[5])
            sampling = body[7::3]
        elif marker == _SOS:
            scanned = body[0]
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
