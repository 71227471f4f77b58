"""The quality at which an encoded file has at most a number of bytes, by search.

The search is a pure function of the pixels and the options. How the size of a file depends on the quality differs
much between images, most of all if they were compressed before. So a sample of the image's rows is encoded at
several qualities: the size of the whole file is a multiple of the sample's, which changes slowly with the quality.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from msgspec.structs import replace

from imageloom.codecs.contract import Codec
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.errors import LimitExceeded
from imageloom.model import Encoding, Pixels

MOST_ENCODES = 5
"""Maximum number of times that the image is encoded, besides its sample."""
_LOWEST = 1
_BAND = 32
"""The sample has bands of so many rows: whole blocks of all formats."""
_SHARES = ((16, 8), (8, 4), (4, 2))
"""It has one of so many bands, from a number of bands on."""
_MARGIN = 0.97
"""If two predictions were too large, the size to aim at is this share of the limit."""


def within(codec: Codec, image: Pixels, encoding: Encoding, metadata: Metadata) -> bytes:
    """The file of an image within its limit of bytes, at the highest quality up to that of the encoding that the
    search finds.

    Raises:
        LimitExceeded: it is larger than the limit: at the lowest quality, or without loss.
    """
    most = encoding.max_bytes
    if not codec.quality or encoding.lossless:
        data = codec.encode(image, encoding, metadata)
        if len(data) <= most:
            return data
        raise LimitExceeded(
            f"its {codec.format} output has {len(data):,} bytes, over the limit of {most:,}, and no quality that "
            "can be lowered (--max-bytes): choose --format webp or jpeg"
        )
    sample = sample_of(image)

    def encoded(quality: int) -> bytes:
        return codec.encode(image, replace(encoding, quality=quality), metadata)

    @lru_cache(maxsize=100)
    def of_sample(quality: int) -> int:
        return max(1, len(codec.encode(sample, replace(encoding, quality=quality), NO_METADATA)) - head)

    head = len(codec.encode(np.zeros_like(image[:8, :8]), encoding, NO_METADATA))
    around = sum(len(block) for block in (metadata.exif, metadata.xmp, metadata.icc))
    data, size = fitted(most, encoding.quality, encoded, of_sample, head + around)
    if data:
        return data
    raise LimitExceeded(
        f"its {codec.format} output has {size:,} bytes at the lowest quality, over the limit of {most:,} "
        "(--max-bytes)"
    )


def sample_of(image: Pixels) -> Pixels:
    """Some of the rows of an image, in bands from top to bottom; all rows of a small image."""
    bands = len(image) // _BAND
    share = next((share for least, share in _SHARES if bands >= least), 1)
    if share == 1:
        return image
    starts = range((bands % share + share) // 2 * _BAND, bands * _BAND, share * _BAND)
    return np.concatenate([image[start : start + _BAND] for start in starts])


def fitted(
    most: int,
    ceiling: int,
    encoded: Callable[[int], bytes],
    of_sample: Callable[[int], int],
    around: int = 0,
) -> tuple[bytes, int]:
    """The file with the highest quality, up to a ceiling, that was found to fit; and the smallest file's size.

    Args:
        most: maximum size of the file in bytes.
        encoded: makes the file at a quality.
        of_sample: the size of the sample at a quality, without headers.
        around: bytes of the file that do not depend on the quality: its headers and metadata.
    """
    best, sizes = b"", dict[int, int]()
    lowest, highest = _LOWEST - 1, ceiling + 1
    """Qualities that are known to fit, and not to fit."""
    quality = ceiling
    for tried in range(1, MOST_ENCODES + 1):
        data = encoded(quality)
        sizes[quality] = len(data)
        if len(data) <= most:
            best, lowest = data, quality
        else:
            highest = quality
        if lowest + 1 >= highest:
            break
        aim = most if tried < 3 or best else int(most * _MARGIN ** (tried - 2))
        quality = _highest(_sizes(sizes, of_sample, around), aim, max(lowest, _LOWEST), highest)
        if not best and tried == MOST_ENCODES - 1:
            quality = _LOWEST
        elif quality <= lowest:
            break
    return best, min(sizes.values())


def _sizes(sizes: dict[int, int], of_sample: Callable[[int], int], around: int) -> Callable[[int], float]:
    """The expected size of the file at a quality.

    It is that of the sample times a factor: the factors at the qualities that were tried are known, and those
    between them are interpolated.
    """
    known = sorted(sizes)
    factors = [(sizes[quality] - around) / of_sample(quality) for quality in known]

    def size(quality: int) -> float:
        return around + of_sample(quality) * float(np.interp(quality, known, factors))

    return size


def _highest(size: Callable[[int], float], most: float, lowest: int, highest: int) -> int:
    """The highest quality below `highest` of at most this size; `lowest` if there is none above that."""
    while highest - lowest > 1:
        middle = (lowest + highest) // 2
        if size(middle) <= most:
            lowest = middle
        else:
            highest = middle
    return lowest
