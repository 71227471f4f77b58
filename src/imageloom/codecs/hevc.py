"""The size and depth of HEVC pictures, from the sequence parameter set in hvcC (ITU-T H.265, 7.3.2.2)."""

from __future__ import annotations

from typing import NamedTuple

from imageloom.codecs.bits import Bits, number
from imageloom.errors import CorruptImage

_SPS = 33


class Coding(NamedTuple):
    """The properties of coded pictures."""

    width: int
    height: int
    gray: bool
    bits: int


def coding(hvcc: bytes) -> Coding:
    """The coding of the pictures that a decoder configuration (hvcC) describes.

    Raises:
        CorruptImage: it has no valid sequence parameter set.
        MoreNeeded: it is cut off.
    """
    gray, bits = number(hvcc, 16, 1) & 3 == 0, 8 + (number(hvcc, 17, 1) & 7)
    at = 23
    for _ in range(number(hvcc, 22, 1)):
        kind = number(hvcc, at, 1) & 63
        units = number(hvcc, at + 1, 2)
        at += 3
        for _ in range(units):
            length = number(hvcc, at, 2)
            if kind == _SPS:
                return Coding(*_size(hvcc[at + 4 : at + 2 + length]), gray, bits)
            at += 2 + length
    raise CorruptImage("its pictures have no size")


def _size(unit: bytes) -> tuple[int, int]:
    """Width and height of the coded pictures, before the conformance window is cut out."""
    bits = _Bits(unit.replace(b"\0\0\3", b"\0\0"))
    bits.take(4)
    layers = bits.take(3)
    bits.take(1 + 88 + 8)
    present = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    if layers:
        bits.take(2 * (8 - layers))
    for has_profile, has_level in present:
        bits.take(88 * has_profile + 8 * has_level)
    bits.variable()
    if bits.variable() == 3:
        bits.take(1)
    return bits.variable(), bits.variable()


class _Bits(Bits):
    """Bits with the numbers of HEVC."""

    def variable(self) -> int:
        """A number in Exp-Golomb code (9.2)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        if zeros > 31:
            raise CorruptImage("the size of its pictures is damaged")
        return (1 << zeros) - 1 + self.take(zeros)
