"""Colours written into a JPEG XL codestream (ISO/IEC 18181-1, annexes D and E).

The library writes the header of sRGB. If the pixels were not converted for compression (XYB), nothing else depends
on the header's colours, so that it can be replaced by one with a profile or with codes of ITU-T H.273.
"""

from __future__ import annotations

import struct

from imageloom.codecs.jxlheader import Bits, Choice
from imageloom.errors import CorruptImage

_PRIMARIES = {1: (1, 1), 9: (1, 9), 11: (11, 11), 12: (1, 11)}
"""White point and primaries of JPEG XL by the code of H.273."""
_TRANSFERS = {1: 1, 6: 1, 8: 8, 13: 13, 14: 1, 15: 1, 16: 16, 17: 17, 18: 18}
SRGB = frozenset(((1, 13), (2, 2)))
"""Codes that a codestream need not state."""
_NITS = {16: 10_000.0, 18: 1_000.0}
"""Luminance of white in candela per square metre, by transfer function."""
_ENUM: tuple[Choice, ...] = ((0, 0), (1, 0), (2, 4), (18, 6))
_BYTE: tuple[Choice, ...] = ((0, 0), (1, 4), (17, 8), (0, 0))
_HEADER = 128
_SYMBOLS = 256
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(_SYMBOLS))


def can_state(codes: tuple[int, int]) -> bool:
    """Whether a codestream has a code for colour primaries and transfer characteristics."""
    return codes[0] in _PRIMARIES and codes[1] in _TRANSFERS


def with_colours(codestream: bytes, is_gray: bool, icc: bytes, codes: tuple[int, int] | None) -> bytes:
    """The codestream with a profile, or with codes that it can state.

    Raises:
        CorruptImage: the library wrote a header of another kind.
    """
    old, new = Bits(codestream[2 : 2 + _HEADER]), _Written()
    old.size()
    size = old.at
    is_default, is_extended = old.flag(), old.flag()
    start = old.at
    old.depth()
    old.flag()
    for _ in range(old.choose((0, 0), (1, 0), (2, 4), (1, 12))):
        old.extra_channel()
    is_xyb, end = old.flag(), old.at
    if not old.flag():
        old.colours()
    extensions, has_default_transform = old.take(2), old.flag()
    if is_default or is_extended or is_xyb or extensions or not has_default_transform:
        raise CorruptImage("the JPEG XL encoder wrote an unknown header")
    transfer = _TRANSFERS[codes[1]] if codes else 0
    nits = _NITS.get(transfer)
    new.copy(old, 0, size)
    new.put(0, 1)
    new.put(nits is not None, 1)
    if nits is not None:
        new.put(0, 6)  # upright, without intrinsic size, preview and animation
    new.copy(old, start, end)
    new.put(0, 1)
    new.put(codes is None, 1)
    new.choose(is_gray, *_ENUM)
    if codes is not None:
        white, primaries = _PRIMARIES[codes[0]]
        new.choose(white, *_ENUM)
        if not is_gray:
            new.choose(primaries, *_ENUM)
        new.put(0, 1)
        new.choose(transfer, *_ENUM)
        new.choose(1, *_ENUM)  # relative colorimetric
    if nits is not None:
        new.put(0, 1)
        new.put(int.from_bytes(struct.pack("<e", nits), "little"), 16)
        new.put(0, 33)
    new.put(0, 2)
    new.put(1, 1)
    if codes is None:
        _put_profile(new, icc)
    return codestream[:2] + new.bytes() + codestream[2 + -(-old.at // 8) :]


class _Written:
    """Numbers of a few bits, the lowest bit first."""

    def __init__(self) -> None:
        self._value, self._count = 0, 0

    def put(self, value: int, count: int) -> None:
        self._value |= value << self._count
        self._count += count

    def choose(self, value: int, *choices: Choice) -> None:
        index, (offset, count) = next(
            (index, choice)
            for index, choice in enumerate(choices)
            if choice[0] <= value < choice[0] + (1 << choice[1])
        )
        self.put(index, 2)
        self.put(value - offset, count)

    def copy(self, source: Bits, start: int, end: int) -> None:
        self.put(source.between(start, end), end - start)

    def bytes(self) -> bytes:
        return self._value.to_bytes(-(-self._count // 8), "little")


def _put_profile(written: _Written, icc: bytes) -> None:
    """Write a profile without compression: each byte as a symbol of 8 bits (annex E.4 and C.2)."""
    commands = b"\0" + (b"\1" + _number(len(icc) - _HEADER) if len(icc) > _HEADER else b"")
    coded = _number(len(icc)) + _number(len(commands)) + commands + _difference(icc) + icc[_HEADER:]
    _put_long(written, len(coded))
    written.put(0, 1)  # no references to earlier symbols
    written.put(0b001, 3)  # one distribution for all contexts
    written.put(1, 1)  # prefix codes
    written.put(8, 4)  # numbers below 256 are symbols
    written.put(0, 8)
    written.put(1, 1)  # 256 symbols
    written.put(7, 4)
    written.put(127, 7)
    written.put(0, 2)  # each has 8 bits: the only length in use, the eleventh of the list
    written.put(0, 20)
    written.put(0b0111, 4)
    written.put(0, 14)
    written.put(int.from_bytes(coded.translate(_REVERSED), "little"), 8 * len(coded))


def _put_long(written: _Written, value: int) -> None:
    """A number of up to 64 bits (annex B.2)."""
    if value < 273:
        written.choose(value, *_BYTE[:3])
        return
    written.put(3, 2)
    written.put(value & 0xFFF, 12)
    value >>= 12
    while value:
        written.put(1, 1)
        written.put(value & 0xFF, 8)
        value >>= 8
    written.put(0, 1)


def _number(value: int) -> bytes:
    """A number in groups of 7 bits."""
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes((*groups, value))


def _difference(icc: bytes) -> bytes:
    """The profile's header minus the header that decoders expect."""
    expected = bytearray(_HEADER)
    expected[:4] = len(icc).to_bytes(4)
    expected[8] = 4
    expected[12:24] = b"mntrRGB XYZ "
    expected[36:40] = b"acsp"
    expected[70:80] = bytes((246, 214, 0, 1, 0, 0, 0, 0, 211, 45))
    expected[80:84] = icc[4:8]
    maker = {b"A": b"APPL", b"M": b"MSFT"}.get(icc[40:41]) or {b"SG": b"SGI ", b"SU": b"SUNW"}.get(icc[40:42])
    if maker:
        expected[41:44] = maker[1:]
    return bytes((one - other) & 0xFF for one, other in zip(icc[:_HEADER], expected, strict=False))
