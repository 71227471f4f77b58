"""JPEG by strips: every row of MCUs is a restart interval, so that each strip is encoded alone.

No coefficient is predicted across a restart marker (ITU-T T.81, E.2.4 and F.1.1.5.1). Rows of MCUs that
libjpeg-turbo has encoded one by one therefore join into one file, which decodes to the pixels of one that was
encoded whole.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np

from imageloom.codecs.jpegmetadata import Around, with_density
from imageloom.codecs.pictures import INDEX_LENGTH, index
from imageloom.codecs.piecewise import ordered
from imageloom.codecs.piecewise.pieces import Pieces
from imageloom.model import Pixels, Subsampling

EOI, SOS, APP0 = 0xD9, 0xDA, 0xE0
BASELINE = (0xC0, 0xC1)
END = bytes((0xFF, EOI))
CYCLE = 8
"""Restart markers count from RST0 to RST7."""
_PIECE = 1 << 19
"""Pixels of a strip, about."""


@lru_cache(maxsize=1)
def library() -> ModuleType:
    return importlib.import_module("simplejpeg")


class Encoder(ordered.FileEncoder, frozen=True):
    """Baseline JPEG with the Huffman tables of the specification's annex K."""

    quality: int = 85
    around: Around = Around()
    """The metadata around the image."""
    subsampling: Subsampling = "420"

    @property
    def pieces(self) -> Pieces:
        """Strips of whole cycles of restart markers, so that each begins with RST0 behind its first row."""
        cycle = CYCLE * self.mcu[1]
        return Pieces(self.frame, self.frame.width, cycle * max(1, _PIECE // (cycle * self.frame.width)))

    @property
    def mcu(self) -> tuple[int, int]:
        """Width and height of an MCU in pixels."""
        return (8, 8) if self.frame.channels == 1 else _MCUS[self.subsampling]

    def encoded(self, samples: Pixels) -> bytes:
        """A whole JPEG of these samples (height, width, channels)."""
        return _encoded(samples, self.quality, self.subsampling)

    @property
    def head(self) -> bytes:
        """All up to the entropy-coded data, of a file of 8x8 pixels."""
        return _head(self.frame.channels, self.quality, self.subsampling)

    def compress(self, pixels: Pixels) -> bytes:
        """The entropy-coded rows of MCUs of a strip, with the restart markers between them."""
        samples = np.ascontiguousarray(pixels).reshape(*pixels.shape[:2], self.frame.channels)
        start = len(self.head)
        step = self.mcu[1]
        parts: list[bytes | memoryview] = []
        for row, y in enumerate(range(0, len(samples), step)):
            if row:
                parts.append(restart(row - 1))
            parts.append(memoryview(self.encoded(samples[y : y + step]))[start:-2])
        return b"".join(parts)

    def writer(self, file: BinaryIO, path: Path | None = None) -> ordered.Ordered:
        return _Writer(self, file, path)


class _Writer(ordered.Ordered):
    def __init__(self, encoder: Encoder, file: BinaryIO, path: Path | None) -> None:
        self._encoder = encoder
        super().__init__(len(encoder.pieces), file, path)

    def _begin(self) -> None:
        head, self._index_at = _head_of(self._encoder)
        self._file.write(head)

    def _append(self, data: bytes) -> None:
        if self._next:
            self._file.write(restart(CYCLE - 1))
        self._file.write(data)

    def _finish(self) -> None:
        self._file.write(END)
        if self._encoder.around.gain_map:
            at, image = self._index_at, self._file.tell()
            self._file.seek(at)
            self._file.write(index(image, at, self._encoder.around.gain_map))
            self._file.seek(image)
        self._file.write(self._encoder.around.behind)


_MCUS: dict[Subsampling, tuple[int, int]] = {
    "444": (8, 8),
    "440": (8, 16),
    "422": (16, 8),
    "420": (16, 16),
    "411": (32, 8),
}
"""Width and height of an MCU of an image with colours."""


def restart(number: int) -> bytes:
    """The restart marker of that number."""
    return bytes((0xFF, 0xD0 + number % CYCLE))


def _encoded(samples: Pixels, quality: int, subsampling: Subsampling) -> bytes:
    gray = samples.shape[2] == 1
    data: bytes = library().encode_jpeg(
        samples,
        quality,
        colorspace="GRAY" if gray else "RGB",
        colorsubsampling="Gray" if gray else subsampling,
    )
    return data


@lru_cache(maxsize=8)
def _head(channels: int, quality: int, subsampling: Subsampling) -> bytes:
    data = _encoded(np.zeros((8, 8, channels), np.uint8), quality, subsampling)
    at = 2
    while data[at + 1] != SOS:
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return data[: at + 2 + int.from_bytes(data[at + 2 : at + 4])]


def _head_of(encoder: Encoder) -> tuple[bytes, int]:
    """The same with the size, the restart interval and the metadata of a file; the position of its index."""
    frame, head, around = encoder.frame, encoder.head, encoder.around
    across = -(-frame.width // encoder.mcu[0])
    at, index_at, parts = 2, 0, [head[:2]]
    while at < len(head):
        marker, end = head[at + 1], at + 2 + int.from_bytes(head[at + 2 : at + 4])
        if marker in BASELINE:
            size = frame.height.to_bytes(2) + frame.width.to_bytes(2)
            parts.append(head[at : at + 5] + size + head[at + 9 : end])
        elif marker == SOS:
            parts.append(b"\xff\xdd\0\4" + across.to_bytes(2) + head[at:end])
        else:
            parts.append(head[at:end])
        if marker == APP0:
            start = with_density(b"".join(parts), around.density) + around.segments
            index_at = len(start)
            parts = [start, bytes(INDEX_LENGTH if around.gain_map else 0)]
        at = end
    return b"".join(parts), index_at
