"""What operators share: one scale for all dtypes, formulas of one value, OpenCV made exact for tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import cv2
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from imageloom.model import Pixels

Odd = Annotated[int, Meta(ge=1, le=101)]
"""The width and height of a square kernel in pixels; `odd` checks that it has a middle."""

VECTOR = 64
"""More values than OpenCV's vector code takes at once on any processor."""

PAIRED = 300_000
"""Values of an image from which on a table of all pairs of bytes is worth its making."""

ROWS = 64
"""Rows that are worked on at once where there are floats in between, so that these stay in the cache."""


def odd(kernel: int, **_: object) -> str | None:
    """Why a kernel cannot be centred on a pixel, or None."""
    return None if kernel % 2 else f"kernel = {kernel}: must be odd"


def half(kernel: int, **_: object) -> int:
    """How far a centred kernel reaches."""
    return kernel // 2


def top_of(dtype: Any) -> float:
    """White: the largest value of an integer dtype, 1 for float32."""
    return 1.0 if dtype == np.float32 else float(np.iinfo(dtype).max)


def in_range(values: Pixels, dtype: Any) -> Pixels:
    """`values` on the scale of `dtype` clipped to its range, and rounded where it is one of integers."""
    clipped = np.clip(values, 0, np.asarray(top_of(dtype), values.dtype))
    return (clipped if dtype == np.float32 else np.rint(clipped, out=clipped)).astype(dtype, copy=False)


def by_value(image: Pixels, formula: Callable[[NDArray[Any]], NDArray[Any]]) -> Pixels:
    """A formula of one value, on the scale from 0 to 1, for every value of an image.

    The formula is worked out once for each level of 8 or 16 bits and looked up from there.
    """
    if image.dtype == np.float32:
        return in_range(formula(image), np.float32)
    levels = int(top_of(image.dtype)) + 1
    table = in_range(formula(np.arange(levels) / (levels - 1)) * (levels - 1), image.dtype)
    return look_up(image, table)


def look_up(image: Pixels, table: Pixels) -> Pixels:
    """Each value of an image of 8 or 16 bits looked up in a table of as many entries as there are levels.

    OpenCV looks values up one by one, so that two bytes at once, in a table of all pairs, take half the time.
    """
    if image.dtype == np.uint8 and image.size >= PAIRED and image.size % 2 == 0 and image.flags.c_contiguous:
        pairs = (table[:, None].astype(np.uint16) << 8 | table).reshape(-1)
        return cv2.LUT(image.reshape(1, -1).view(np.uint16), pairs).view(np.uint8).reshape(image.shape)
    return cv2.LUT(image, table)


def in_bands(function: Callable[..., Pixels], *images: Pixels) -> Pixels:
    """A function of each pixel by itself, of one or more images of one size, by bands of rows."""
    bands = [[image[y : y + ROWS] for image in images] for y in range(0, len(images[0]), ROWS)]
    return np.concatenate([function(*band) for band in bands])


def in_vectors(
    function: Callable[[Pixels], Pixels], image: Pixels, reach: int = 0, border: int = cv2.BORDER_REFLECT_101
) -> Pixels:
    """`function` of an image, so that a pixel's value does not depend on where the image's edges lie.

    OpenCV does most of a row in vector code and its last values one by one, which rounds another way (a fused
    multiply and add, another order of a sum); Intel's IPP, which it calls for some filters, rounds by blocks
    of rows. Where the arithmetic is inexact, tiles would differ from the whole in a last bit. So IPP is left
    out, and columns are appended that go on as the border does: the scalar code falls there.

    Args:
        reach: how many pixels around each one `function` reads.
        border: how `function` continues an image.
    """
    wider = cv2.copyMakeBorder(image, 0, 0, 0, reach + VECTOR, border)
    with _without_ipp():
        return np.ascontiguousarray(function(wider)[:, : image.shape[1]])


@contextmanager
def _without_ipp() -> Iterator[None]:
    """Keep OpenCV from calling IPP, in this thread alone."""
    before = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        yield
    finally:
        cv2.ipp.setUseIPP(before)
