"""Shared by operators: scaling to a dtype, formulas of one value, and OpenCV calls that are exact in tiles."""

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
"""The width and height of a square kernel in pixels; `odd` checks that it is odd."""

VECTOR = 64
"""More values than OpenCV's vector code processes at the same time on any processor."""

PAIRED = 300_000
"""Number of values in an image above which making a table of all pairs of bytes saves time."""

ROWS = 64
"""Number of rows that are computed together if intermediate values are floats, so that they stay in the cache."""


def odd(kernel: int, **_: object) -> str | None:
    """Why a kernel cannot be centred on a pixel: it is even; else None."""
    return None if kernel % 2 else f"kernel = {kernel}: it must be odd"


def half(kernel: int, **_: object) -> int:
    """The radius of a centred kernel in pixels."""
    return kernel // 2


def top_of(dtype: Any) -> float:
    """The value of white: the maximum of an integer dtype, 1 for float32."""
    return 1.0 if dtype == np.float32 else float(np.iinfo(dtype).max)


def in_range(values: Pixels, dtype: Any) -> Pixels:
    """Clip `values` to the range of `dtype`, and round them if it is an integer dtype."""
    clipped = np.clip(values, 0, np.asarray(top_of(dtype), values.dtype))
    return (clipped if dtype == np.float32 else np.rint(clipped, out=clipped)).astype(dtype, copy=False)


def by_value(image: Pixels, formula: Callable[[NDArray[Any]], NDArray[Any]]) -> Pixels:
    """Apply a formula of one value, scaled to 0 to 1, to every value of an image.

    For 8 and 16 bits the formula is computed once per level and then looked up.
    """
    if image.dtype == np.float32:
        return in_range(formula(image), np.float32)
    levels = int(top_of(image.dtype)) + 1
    table = in_range(formula(np.arange(levels) / (levels - 1)) * (levels - 1), image.dtype)
    return look_up(image, table)


def look_up(image: Pixels, table: Pixels) -> Pixels:
    """Look each value of an 8-bit or 16-bit image up in a table with one entry per level.

    OpenCV looks up one value at a time. Looking up two bytes together, in a table of all pairs, takes half the
    time.
    """
    if image.dtype == np.uint8 and image.size >= PAIRED and image.size % 2 == 0 and image.flags.c_contiguous:
        pairs = (table[:, None].astype(np.uint16) << 8 | table).reshape(-1)
        return cv2.LUT(image.reshape(1, -1).view(np.uint16), pairs).view(np.uint8).reshape(image.shape)
    return cv2.LUT(image, table)


def mix(image: Pixels, matrix: Pixels) -> Pixels:
    """Multiply each pixel's R, G and B by a matrix (3, 3), and clip to the range."""
    mixed = in_vectors(lambda wider: cv2.transform(wider, matrix), image)
    return in_range(mixed, np.float32) if image.dtype == np.float32 else mixed


def in_bands(function: Callable[..., Pixels], *images: Pixels) -> Pixels:
    """Apply a function of single pixels to one or more images of the same size, in bands of rows."""
    bands = [[image[y : y + ROWS] for image in images] for y in range(0, len(images[0]), ROWS)]
    return np.concatenate([function(*band) for band in bands])


def in_vectors(
    function: Callable[[Pixels], Pixels], image: Pixels, reach: int = 0, border: int = cv2.BORDER_REFLECT_101
) -> Pixels:
    """Apply `function` to an image so that a pixel's value does not depend on the distance to the image's edges.

    OpenCV computes most of a row in vector code and the last values in scalar code, which rounds differently
    (fused multiply and add, another order of a sum). Intel's IPP, which OpenCV calls for some filters, rounds by
    blocks of rows. With inexact arithmetic, tiles would differ from the whole image in the last bit. Therefore
    IPP is turned off, and columns are appended that continue the border: only these are computed by the scalar
    code.

    Args:
        reach: how many pixels around each pixel `function` reads.
        border: how `function` extends an image at its edges (OpenCV's border type).
    """
    wider = cv2.copyMakeBorder(image, 0, 0, 0, reach + VECTOR, border)
    with _without_ipp():
        return np.ascontiguousarray(function(wider)[:, : image.shape[1]])


@contextmanager
def _without_ipp() -> Iterator[None]:
    """Turn off IPP in OpenCV, only for this thread."""
    before = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        yield
    finally:
        cv2.ipp.setUseIPP(before)
