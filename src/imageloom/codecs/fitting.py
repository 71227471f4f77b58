"""The quality at which an encoded file has at most a number of bytes, by search.

The search is a pure function of the pixels and the options. It knows how large a typical photo is at each quality
of a format; from two encodings it knows how far this image differs from a typical one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from math import exp, log

from msgspec.structs import replace

from imageloom.codecs.contract import Codec
from imageloom.codecs.metadata import Metadata
from imageloom.errors import LimitExceeded
from imageloom.model import Encoding, Format, Pixels

MOST_ENCODES = 5
"""Maximum number of times that an image is encoded."""
_CLOSE = 2
"""The search ends if the next quality that was found to be too large is at most this much higher."""
_AT = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100)
_SIZES: dict[Format, tuple[float, ...]] = {
    "jpeg": (0.0235, 0.031, 0.046, 0.069, 0.090, 0.105, 0.134, 0.147, 0.169, 0.206, 0.29, 0.41, 0.72),
    "webp": (0.024, 0.033, 0.041, 0.056, 0.071, 0.085, 0.098, 0.111, 0.125, 0.16, 0.254, 0.357, 0.462),
    "avif": (0.004, 0.006, 0.009, 0.018, 0.030, 0.047, 0.070, 0.10, 0.15, 0.21, 0.33, 0.44, 0.60),
    "heif": (0.004, 0.006, 0.009, 0.018, 0.030, 0.050, 0.085, 0.14, 0.22, 0.33, 0.50, 0.65, 0.90),
    "jxl": (0.018, 0.020, 0.0255, 0.045, 0.062, 0.070, 0.081, 0.0985, 0.128, 0.179, 0.288, 0.423, 2.10),
}
"""The typical sizes of a photo at these qualities, in bytes per pixel."""
_OTHERWISE: Format = "jpeg"
_LEAST = 1
"""The lowest quality."""


def within(codec: Codec, image: Pixels, encoding: Encoding, metadata: Metadata) -> bytes:
    """The file of an image within its limit of bytes, at a quality up to that of the encoding.

    Raises:
        LimitExceeded: it is larger than the limit: at the lowest quality, or without loss.
    """
    most = encoding.max_bytes
    if codec.quality and not encoding.lossless:
        around = sum(len(block) for block in (metadata.exif, metadata.xmp, metadata.icc))

        def encode(quality: int) -> bytes:
            return codec.encode(image, replace(encoding, quality=quality), metadata)

        return fitted(codec.format, most, encoding.quality, encode, around)
    data = codec.encode(image, encoding, metadata)
    if len(data) > most:
        raise LimitExceeded(
            f"its {codec.format} output has {len(data):,} bytes, over the limit of {most:,}, and {codec.format} "
            "has no quality to lower (--max-bytes; --format webp has one)"
            if not codec.quality
            else f"its output without loss has {len(data):,} bytes, over the limit of {most:,} (--max-bytes)"
        )
    return data


def fitted(format: Format, most: int, ceiling: int, encode: Callable[[int], bytes], around: int = 0) -> bytes:
    """The file with the highest quality, up to a ceiling, that was found to fit.

    Args:
        most: maximum size of the file in bytes.
        ceiling: the highest quality to try.
        encode: makes the file at a quality.
        around: bytes of the file that do not depend on the quality: its metadata.

    Raises:
        LimitExceeded: the file is larger at the lowest quality, too.
    """
    curve = _SIZES.get(format, _SIZES[_OTHERWISE])
    found: dict[int, int] = {}
    best, lowest, highest = b"", _LEAST - 1, ceiling + 1
    quality = ceiling
    for tried in range(1, MOST_ENCODES + 1):
        data = encode(quality)
        found[quality] = len(data)
        if len(data) <= most:
            best, lowest = data, quality
        else:
            highest = quality
        if lowest == ceiling or highest <= _LEAST or (best and highest - lowest <= _CLOSE):
            break
        left = MOST_ENCODES - tried
        if not best and left == 1:
            quality = _LEAST  # the last attempt must fit
            continue
        wanted = _predicted(curve, found, most, around)
        if not best:  # the fewer attempts are left, the more must the next one fit
            wanted -= max(0, 2 * (tried - 1))
        quality = min(max(wanted, lowest + 1), highest - 1)
    if not best:
        raise LimitExceeded(
            f"its {format} output has {min(found.values()):,} bytes at the lowest quality, over the limit of "
            f"{most:,} (--max-bytes)"
        )
    return best


def _predicted(curve: tuple[float, ...], found: dict[int, int], most: int, around: int) -> int:
    """The highest quality at which the file fits, as the encodings so far and the curve of the format say.

    The logarithm of the size is a linear function of the logarithm of the typical size. With one encoding, its
    slope is 1; with several, that of the two that are nearest to the limit.
    """
    nearest = sorted(found, key=lambda quality: abs(log(found[quality] / most)))[:2]
    size, slope = log(max(1, found[nearest[0]] - around)), 1.0
    typical = log(_typical(curve, nearest[0]))
    if len(nearest) == 2:
        run = log(_typical(curve, nearest[1])) - typical
        rise = log(max(1, found[nearest[1]] - around)) - size
        if rise * run > 0:
            slope = min(max(rise / run, 0.3), 3.0)
    wanted = exp(typical + (log(max(1, most - around)) - size) / slope)
    return max((q for q in range(_LEAST, 101) if _typical(curve, q) <= wanted), default=_LEAST)


def _typical(curve: tuple[float, ...], quality: int) -> float:
    """The typical size at a quality: between the points of the curve, the logarithm is linear."""
    at = min(bisect_right(_AT, quality), len(_AT) - 1)
    share = (quality - _AT[at - 1]) / (_AT[at] - _AT[at - 1])
    return exp((1 - share) * log(curve[at - 1]) + share * log(curve[at]))
