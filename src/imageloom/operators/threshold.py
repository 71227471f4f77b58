"""Threshold: pixels to black and white."""

from __future__ import annotations

from typing import Annotated, Literal

import cv2
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from imageloom.model import Frame, Pixels, Step
from imageloom.operators.registry import Measure, operator
from imageloom.operators.values import half, in_bands, in_range, in_vectors, odd, top_of

Level = Annotated[float, Meta(ge=0, le=255)]
"""A level on the scale of 8 bits; 16 bit and float images take the same share of their own range."""


def histogram(image: Pixels) -> NDArray[np.int64]:
    """How often each of the 256 levels occurs in an 8-bit gray image."""
    return np.bincount(image.ravel(), minlength=256)


def otsu(counts: NDArray[np.int64]) -> int:
    """The level that parts a histogram into the two classes of the largest variance between them.

    N. Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9 (1979); the sums are
    taken in the order of OpenCV's THRESH_OTSU, so that both find the same level.
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
    examples=("threshold 128", "threshold otsu"),
)
def threshold(image: Pixels, *, value: Level | Literal["otsu"] = "otsu") -> Pixels:
    """White where a value is above the level, black elsewhere; otsu finds the level by itself.

    Levels are on the scale of 8 bits, 0 to 255 (OpenCV's THRESH_BINARY).
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
    examples=("adaptive_threshold", "adaptive_threshold 31 offset=5 method=gaussian"),
)
def adaptive_threshold(
    image: Pixels,
    *,
    kernel: Annotated[int, Meta(ge=3, le=301)] = 11,
    offset: Annotated[float, Meta(ge=-255, le=255)] = 2.0,
    method: Literal["mean", "gaussian"] = "mean",
) -> Pixels:
    """White where a value is above the mean of its surroundings less the offset, black elsewhere.

    The mean is that of the square of kernel x kernel pixels in the same channel, even or weighted by a
    Gaussian, rounded to the image's dtype; the edge is continued outwards (OpenCV's adaptiveThreshold). The
    offset is on the scale of 8 bits. Transparency is not looked at and stays.
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
