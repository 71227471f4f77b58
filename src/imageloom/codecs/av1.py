"""The size and colours of AV1 frames, from their sequence header (AV1 specification, 5.3 to 5.5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from imageloom.codecs.bits import Bits, number
from imageloom.errors import CorruptImage, UnsupportedImage

_SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6
_MOST_FRAMES = 8
"""Maximum number of frames of an image: one, or one per layer."""
_MOST_UNITS = 4096


class Sequence(NamedTuple):
    """What holds for all frames of an image."""

    size: tuple[int, int]
    """Width and height."""
    colours: tuple[int, int, int] | None
    """Colour primaries, transfer characteristics and matrix coefficients; None if they are not stated."""


def sequence(data: bytes) -> Sequence:
    """The sequence header of an image.

    Raises:
        CorruptImage: there is no sequence header, or there are several different ones.
        UnsupportedImage: it is a video, or frames may be larger than the sequence header says.
        MoreNeeded: the data ends too early.
    """
    found, frames = set[Sequence](), 0
    for kind, body in _units(data):
        if kind == _SEQUENCE:
            found.add(_sequence(_Bits(body)))
        frames += kind in (_FRAME_HEADER, _FRAME)
    if len(found) != 1:
        raise CorruptImage(f"the AVIF has one image with {len(found)} different sequence headers")
    if frames > _MOST_FRAMES:
        raise UnsupportedImage(f"AVIF with {frames:,} frames in one image is not supported")
    return found.pop()


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and first bytes of each unit (OBU) of the bit stream."""
    at = 0
    for _ in range(_MOST_UNITS):
        if at >= len(data):
            return
        head = data[at]
        at += 2 if head & 4 else 1
        length = len(data) - at
        if head & 2:
            length = shift = 0
            while True:
                byte = number(data, at, 1)
                at += 1
                length |= (byte & 127) << shift
                shift += 7
                if byte < 128 or shift > 56:
                    break
        yield head >> 3 & 15, data[at : at + min(length, 256)]
        at += length
    raise UnsupportedImage(f"AVIF with more than {_MOST_UNITS:,} units (OBUs) is not supported")


class _Bits(Bits):
    """Bits with the numbers of AV1."""

    def skip_variable(self) -> None:
        """Skip a variable-length number (uvlc)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        self.take(min(zeros, 32))


def _sequence(bits: _Bits) -> Sequence:
    profile = bits.take(3)
    bits.take(1)  # whether it is a still picture
    reduced = bits.take(1)
    if reduced:
        bits.take(5)
    else:
        _skip_operating_points(bits)
    wide, high = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(wide) + 1, bits.take(high) + 1
    if not reduced and 1 << wide + high > 4 * width * height + (1 << 22):  # a frame may say its own size
        raise UnsupportedImage(f"AVIF with frames of up to {1 << wide}x{1 << high} pixels is not supported")
    _skip_tools(bits, reduced)
    deep = bits.take(1)
    if profile == 2 and deep:
        bits.take(1)
    if profile != 1:
        bits.take(1)  # whether it is gray
    colours = (bits.take(8), bits.take(8), bits.take(8)) if bits.take(1) else None
    return Sequence((width, height), colours)


def _skip_tools(bits: _Bits, reduced: int) -> None:
    """Skip the flags between the size and the colours."""
    if not reduced and bits.take(1):  # frames have numbers
        bits.take(7)
    bits.take(3)
    if not reduced:
        bits.take(4)
        ordered = bits.take(1)
        if ordered:
            bits.take(2)
        forces_tools = bits.take(1) or bits.take(1)
        if forces_tools and not bits.take(1):
            bits.take(1)
        if ordered:
            bits.take(3)
    bits.take(3)


def _skip_operating_points(bits: _Bits) -> None:
    delay = 0
    if bits.take(1):  # timing
        bits.take(64)
        if bits.take(1):
            bits.skip_variable()
        if bits.take(1):  # a decoder's model
            delay = bits.take(5) + 1
            bits.take(42)
    has_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay and bits.take(1):
            bits.take(2 * delay + 1)
        if has_delay and bits.take(1):
            bits.take(4)
