"""Smoothing by larger units: blocks of pixels, and patches that look alike."""

from __future__ import annotations

from typing import Annotated, Literal

import cv2
import numpy as np
from msgspec import Meta

from imageloom.model import Box, Frame, Pixels
from imageloom.operators.registry import operator
from imageloom.operators.resample import reduce
from imageloom.operators.values import top_of


def _blocks(box: Box, frame: Frame, size: int) -> Box:
    """The complete blocks that a box touches."""
    return box.aligned(size).within(Box.of(frame))


def _pixelate_part(image: Pixels, *, box: Box, frame: Frame, size: int) -> Pixels:
    means = reduce(image, size, size)
    left, top = box.x0 // size, box.y0 // size
    columns, rows = np.arange(box.x0, box.x1) // size - left, np.arange(box.y0, box.y1) // size - top
    shown: Pixels = means[rows].take(columns, axis=1)
    return shown


@operator(
    "geometric",
    source=_blocks,
    part=_pixelate_part,
    alpha="premultiply",
    examples=("pixelate 16", "pixelate 5"),
)
def pixelate(image: Pixels, *, size: Annotated[int, Meta(ge=1, le=10_000)]) -> Pixels:
    """Replace each block of size x size pixels by its mean, so that details cannot be recognized.

    The blocks begin at the top left corner; those at the right and bottom edges may be smaller.
    """
    height, width = image.shape[:2]
    return _pixelate_part(image, box=Box(0, 0, width, height), frame=Frame(width, height, 1), size=size)


@operator(
    "local",
    dtypes=("uint8", "uint16"),
    halo=lambda search, patch, **_: search // 2 + patch // 2,
    alpha="keep",
    examples=("denoise", "denoise 12 search=11"),
)
def denoise(
    image: Pixels,
    *,
    strength: Annotated[float, Meta(ge=0.1, le=100)] = 6.0,
    patch: Literal[3, 5, 7] = 7,
    search: Literal[7, 11, 15, 21, 31] = 21,
) -> Pixels:
    """Remove noise and keep edges: each pixel becomes a mean of pixels whose surroundings look alike.

    strength is the difference, from 0 to 255 for all dtypes, up to which surroundings count as alike: about that
    of the noise. Surroundings of patch x patch pixels are compared in an area of search x search pixels; a smaller
    search is faster. Alpha is ignored and not changed. The same as OpenCV's fastNlMeansDenoising (A. Buades,
    B. Coll and J. Morel, "Non-local means denoising", IPOL 2011).
    """
    if image.dtype == np.uint8:
        return cv2.fastNlMeansDenoising(image, None, strength, patch, search)
    deep = [strength * (top_of(image.dtype) / 255)]
    return cv2.fastNlMeansDenoising(image, deep, None, patch, search, cv2.NORM_L1)
