"""Threshold: operators that make each value black or white."""

from __future__ import annotations

from typing import Annotated, Literal

import cv2
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from imageloom.model import Frame, Pixels, Step
from imageloom.operators.measures import Measure
from imageloom.operators.registry import operator
from imageloom.operators.values import half, in_bands, in_range, in_vectors, odd, top_of

Level = Annotated[float, Meta(ge=0, le=255)]
"""A level from 0 to 255. For 16-bit and float images it is scaled to their range."""


def histogram(image: Pixels) -> NDArray[np.int64]:
    """The number of pixels of each of the 256 levels in an 8-bit gray image."""
    return np.bincount(image.ravel(), minlength=256)


def otsu(counts: NDArray[np.int64]) -> int:
    """The level that divides a histogram into two classes with the largest variance between them.

    N. Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9 (1979). The sums have the
    order of OpenCV's THRESH_OTSU, so that both find the same level.
    """
    scale = 1.0 / float(counts.sum())
    mean = float((np.arange(256) * counts).sum()) * scale
    best, best_level, below, weighted = 0.0, 0, 0.0, 0.0
    for level, count in enumerate(counts.tolist()):
        p = count * scale
        weighted *= below
        below += p
        above = 1.0 - below
        if min(below, above) < 1.1920929e-07 or max(below, above) > 1.0 - 1.1920929e-07:
            continue
        weighted = (weighted + level * p) / below
        apart = weighted - (mean - below * weighted) / above
        between = below * above * apart * apart
        if between > best:
            best, best_level = between, level
    return best_level


def _needs_gray(frame: Frame, value: float | str) -> str | None:
    if value == "otsu" and frame.channels > 2:
        return "otsu takes one channel: put grayscale before it"
    if value == "otsu" and frame.dtype != "uint8":
        return f"otsu takes 8-bit pixels, not {frame.dtype}"
    return None


_otsu = Measure(
    when=lambda value: value == "otsu",
    measure=histogram,
    merge=np.add,
    resolve=lambda counts, value: Step("threshold", {"value": float(otsu(counts))}),
)


@operator(
    "point",
    channelwise=True,
    refuse=_needs_gray,
    measured=_otsu,
    ranged=True,
    examples=("threshold 128", "threshold otsu"),
)
def threshold(image: Pixels, *, value: Level | Literal["otsu"] = "otsu") -> Pixels:
    """Make each value white if it is above the level, otherwise black. value=otsu computes the level.

    Levels are from 0 to 255 for all dtypes. The same as OpenCV's THRESH_BINARY.
    """
    assert not isinstance(value, str), "the planner resolves otsu to a level"
    top = top_of(image.dtype)
    level = value * (top / 255)
    if image.dtype == np.uint8:
        return cv2.threshold(image, level, top, cv2.THRESH_BINARY)[1]
    white: Pixels = np.where(image > level, image.dtype.type(top), image.dtype.type(0))
    return white


@operator(
    "local",
    halo=half,
    check=odd,
    alpha="keep",
    ranged=True,
    examples=("adaptive_threshold", "adaptive_threshold 31 offset=5 method=gaussian"),
)
def adaptive_threshold(
    image: Pixels,
    *,
    kernel: Annotated[int, Meta(ge=3, le=301)] = 11,
    offset: Annotated[float, Meta(ge=-255, le=255)] = 2.0,
    method: Literal["mean", "gaussian"] = "mean",
) -> Pixels:
    """Make each value white if it is above the mean of its neighbours minus the offset, otherwise black.

    The mean is taken over kernel x kernel pixels of the same channel, equally weighted (mean) or weighted by a
    Gaussian (gaussian), and rounded to the image's dtype. The edge pixels are repeated outwards. The offset is
    on a scale from 0 to 255 for all dtypes. Alpha is ignored and not changed. The same as OpenCV's
    adaptiveThreshold.
    """
    top = np.float32(top_of(image.dtype))

    def surroundings(wider: Pixels) -> Pixels:
        pixels = wider.astype(np.float32)
        if method == "gaussian":
            return cv2.GaussianBlur(pixels, (kernel, kernel), 0, borderType=cv2.BORDER_REPLICATE)
        weights = np.full(kernel, 1 / kernel, np.float32)
        return cv2.sepFilter2D(pixels, -1, weights, weights, borderType=cv2.BORDER_REPLICATE)

    mean = in_range(in_vectors(surroundings, image, kernel // 2, cv2.BORDER_REPLICATE), image.dtype)
    white, black = image.dtype.type(top), image.dtype.type(0)

    def compare(pixels: Pixels, mean: Pixels) -> Pixels:
        above = pixels.astype(np.float32) - mean > -np.float32(offset) * (top / 255)
        made: Pixels = np.where(above, white, black)
        return made

    return in_bands(compare, image, mean)
