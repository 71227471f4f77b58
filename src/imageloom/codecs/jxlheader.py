"""The header of a JPEG XL codestream (ISO/IEC 18181-1, annexes B and D)."""

from __future__ import annotations

from typing import NamedTuple

from imageloom.codecs.bits import MoreNeeded
from imageloom.errors import CorruptImage, UnsupportedImage

_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_GRAY, _XYB, _ALPHA, _CUSTOM = 1, 2, 0, 2
_CHANNELS = ("alpha", "depth", "spot colour", "selection mask", "black", "colour filter array", "thermal")
MOST_BYTES = 4096
"""Maximum size of the header that is read, in bytes."""
_MOST_EXTRA = 16

Choice = tuple[int, int]
"""An offset, and the number of bits that are added to it."""


class Colours(NamedTuple):
    """The colour encoding."""

    is_gray: bool = False
    has_profile: bool = False
    primaries: int = 1
    """1 sRGB, 9 BT.2100, 11 P3; 0 if they are not one of these, or the white is not D65."""
    transfer: int = 13
    """As in ITU-T H.273; 0 for a gamma."""


class CodestreamHeader(NamedTuple):
    """The properties of the image."""

    width: int
    height: int
    orientation: int
    is_animated: bool
    bits: int
    is_float: bool
    has_alpha: bool
    is_premultiplied: bool
    is_xyb: bool
    """The pixels were converted for lossy compression."""
    colours: Colours


def codestream_header(head: bytes) -> CodestreamHeader:
    """Parse the header of a codestream from its first bytes, at most `MOST_BYTES`.

    Raises:
        MoreNeeded: the data ends within the header.
        CorruptImage: it is no codestream.
        UnsupportedImage: the image has channels beside its colours and alpha.
    """
    if len(head) < 2:
        raise MoreNeeded
    if head[:2] != b"\xff\x0a":
        raise CorruptImage("the JPEG XL does not begin with its codestream")
    bits = Bits(head[2:])
    width, height = bits.size()
    if bits.flag():
        return CodestreamHeader(width, height, 1, False, 8, False, False, False, True, Colours())
    orientation, animated, extended = 1, False, bits.flag()
    if extended:
        orientation = 1 + bits.take(3)
        if bits.flag():
            bits.size()
        if bits.flag():
            bits.skip_preview()
        animated = bits.flag()
        if animated:
            bits.skip_animation()
    is_float, depth = bits.depth()
    bits.flag()
    count = bits.choose((0, 0), (1, 0), (2, 4), (1, 12))
    if count > _MOST_EXTRA:
        raise UnsupportedImage(f"JPEG XL with {count:,} extra channels is not supported")
    alphas = [bits.extra_channel() for _ in range(count)]
    xyb = bits.flag()
    colours = Colours() if bits.flag() else bits.colours()
    if len(alphas) > 1:
        raise UnsupportedImage("JPEG XL with several alpha channels is not supported")
    return CodestreamHeader(
        width, height, orientation, animated, depth, is_float, bool(alphas), any(alphas), xyb, colours
    )


class Bits:
    """Reads numbers of a few bits, the lowest bit first."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def take(self, count: int) -> int:
        first, self.at = self.at, self.at + count
        end = -(-self.at // 8)
        if end > len(self._data):
            if len(self._data) == MOST_BYTES - 2:
                raise CorruptImage("the JPEG XL has a header that is too long")
            raise MoreNeeded
        value = int.from_bytes(self._data[first // 8 : end], "little")
        return value >> first % 8 & (1 << count) - 1

    def between(self, start: int, end: int) -> int:
        """The bits that were already read from `start` up to `end`."""
        whole = int.from_bytes(self._data[: -(-end // 8)], "little")
        return whole >> start & (1 << end - start) - 1

    def flag(self) -> bool:
        return bool(self.take(1))

    def choose(self, *choices: Choice) -> int:
        offset, count = choices[self.take(2)]
        return offset + self.take(count)

    def enum(self) -> int:
        return self.choose((0, 0), (1, 0), (2, 4), (18, 6))

    def size(self) -> tuple[int, int]:
        """Width and height (SizeHeader)."""
        small = self.flag()

        def side() -> int:
            return 8 * (1 + self.take(5)) if small else self.choose((1, 9), (1, 13), (1, 18), (1, 30))

        height = side()
        ratio = self.take(3)
        if not ratio:
            return side(), height
        over, under = _RATIOS[ratio - 1]
        return height * over // under, height

    def skip_preview(self) -> None:
        by_eight = self.flag()
        for _ in range(2):
            if by_eight:
                self.choose((16, 0), (32, 0), (1, 5), (33, 9))
            else:
                self.choose((1, 6), (65, 8), (321, 10), (1345, 12))
            if _ == 0 and self.take(3):
                return

    def skip_animation(self) -> None:
        self.choose((100, 0), (1000, 0), (1, 10), (1, 30))
        self.choose((1, 0), (1001, 0), (1, 8), (1, 10))
        self.choose((0, 0), (0, 3), (0, 16), (0, 32))
        self.flag()

    def depth(self) -> tuple[bool, int]:
        """Whether samples are floating point, and their bits."""
        if not self.flag():
            return False, self.choose((8, 0), (10, 0), (12, 0), (1, 6))
        count = self.choose((32, 0), (16, 0), (24, 0), (1, 6))
        self.take(4)
        return True, count

    def extra_channel(self) -> bool:
        """Whether colours were multiplied by this alpha channel.

        Raises:
            UnsupportedImage: it is another kind of channel.
        """
        if self.flag():
            return False
        kind = self.enum()
        self.depth()
        self.choose((0, 0), (3, 0), (4, 0), (1, 3))
        for _ in range(self.choose((0, 0), (0, 4), (16, 5), (48, 10))):
            self.take(8)
        if kind != _ALPHA:
            name = _CHANNELS[kind] if kind < len(_CHANNELS) else "unknown"
            raise UnsupportedImage(f"JPEG XL with a channel of the kind {name} is not supported")
        return self.flag()

    def colours(self) -> Colours:
        has_profile, space = self.flag(), self.enum()
        gray = space == _GRAY
        if space > _GRAY:
            raise UnsupportedImage(f"JPEG XL of colour space {space} is not supported")
        if has_profile:
            return Colours(gray, True)
        white = self.enum()
        if white == _CUSTOM:
            self._skip_point()
        primaries = 1
        if not gray:
            primaries = self.enum()
            for _ in range(3 * (primaries == _CUSTOM)):
                self._skip_point()
        if self.flag():
            self.take(24)
            transfer = 0
        else:
            transfer = self.enum()
        self.enum()  # rendering intent
        known = white == 1 and primaries in (1, 9, 11)
        return Colours(gray, False, primaries if known else 0, transfer)

    def _skip_point(self) -> None:
        for _ in range(2):
            self.choose((0, 19), (1 << 19, 19), (1 << 20, 20), (1 << 21, 21))
