"""Resampling in coordinates of the whole image: a part of the result needs only a part of the input.

OpenCV's resize has no offset parameter: the resized part of an image is not a part of the resized image. Here
each axis is first reduced by an integer factor, in blocks counted from the image's origin (OpenCV's INTER_AREA,
which is fast and sums each block independently). The rest, at least twice the target size, is resampled one axis
after the other. Each output row is a weighted sum of a few rows. The weights are computed from integers, and
numpy's float arithmetic does not depend on the position in memory.

The weights are those of OpenCV: overlaps for the area kernel, a = -0.75 for the cubic kernel (R. Keys, "Cubic
convolution interpolation for digital image processing", IEEE Trans. ASSP 29, 1981), eight points for Lanczos.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from imageloom.model import Box, Pixels
from imageloom.operators.channels import saturate

Kernel = Literal["nearest", "linear", "cubic", "lanczos", "area", "lanczos3", "mitchell"]

_TAPS = {"linear": 2, "cubic": 4, "lanczos": 8}
SPREAD = {"lanczos3": 3, "mitchell": 2}
"""The radius of kernels, in pixels of the result, that are widened where an image shrinks. They average by
themselves and need no reduction before."""
_FINE = 4
"""At least so many cells per pixel of the result remain for these kernels."""


class Axis(NamedTuple):
    """How one axis of an image is resampled."""

    length: int
    """Length of the input in pixels."""
    target: int
    """Length of the output in pixels."""
    kernel: Kernel

    @property
    def factor(self) -> int:
        """Input pixels per cell. A cell is at most one output pixel, for the area kernel at most half of one."""
        if self.kernel == "nearest":
            return 1
        ratio, rest = divmod(self.length, self.target)
        if self.kernel in SPREAD:
            return max(1, ratio // _FINE)
        # Overlaps weigh each cell by what lies in it; interpolation must not skip any.
        return max(1, ratio // 2 if rest and self.kernel == "area" else ratio)

    @property
    def cells(self) -> int:
        """The input's length in cells; the last cell may be narrower than the others."""
        return -(-self.length // self.factor)

    def weights(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The cells that are needed for the output pixels from start to stop, and their weights.

        Returns:
            The cells (taps, pixels), clipped to the image, and their weights (taps, pixels).
        """
        place = np.arange(start, stop, dtype=np.int64)
        if self.cells == self.target:
            return place[None], np.ones((1, len(place)), np.float32)
        if self.kernel == "nearest":
            cells = (2 * place + 1) * self.length // (2 * self.target)
            return cells[None], np.ones((1, len(place)), np.float32)
        if self.kernel == "area":
            return self._overlaps(place)
        if self.kernel in SPREAD:
            return self._spread(place)
        # The middle of a pixel in units of 1 / (2 * target * factor) of a cell, from the middle of the first.
        unit = 2 * self.target * self.factor
        cell, rest = np.divmod((2 * place + 1) * self.length - self.target * self.factor, unit)
        weights = interpolating(self.kernel, rest / unit)
        taps = len(weights)
        cells = cell + np.arange(1 - taps // 2, 1 + taps // 2)[:, None]
        return np.clip(cells, 0, self.cells - 1), weights

    def _overlaps(self, place: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The overlap of each output pixel with each cell, in units of 1 / target of an input pixel."""
        begin, width = place * self.length, self.factor * self.target
        first = begin // width
        taps = (self.length - 2) // width + 2
        cells = first + np.arange(taps)[:, None]
        ends = np.minimum((cells + 1) * width, begin + self.length)
        overlaps = np.maximum(ends - np.maximum(cells * width, begin), 0)
        return np.minimum(cells, self.cells - 1), (overlaps / self.length).astype(np.float32)

    def _spread(self, place: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The cells under a kernel that is widened to the result's pixels. Those beyond an edge have no weight."""
        scale = max(1.0, self.length / (self.target * self.factor))
        reach = math.ceil(SPREAD[self.kernel] * scale)
        middle = (2 * place + 1) * self.length / (2 * self.target * self.factor) - 0.5
        cells = np.floor(middle).astype(np.int64) + np.arange(-reach, reach + 2)[:, None]
        weights = _widened(self.kernel, np.abs(cells - middle) / scale)
        weights[(cells < 0) | (cells >= self.cells)] = 0
        share = weights / weights.sum(0)
        return np.clip(cells, 0, self.cells - 1), share.astype(np.float32)

    def source(self, start: int, stop: int) -> tuple[int, int]:
        """The range of input pixels that is needed for the output pixels from start to stop."""
        cells, _ = self.weights(start, stop)
        return int(cells.min()) * self.factor, min((int(cells.max()) + 1) * self.factor, self.length)


def _widened(kernel: Kernel, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The value of a kernel at the distances x from its centre.

    Lanczos with three lobes; D. Mitchell and A. Netravali, "Reconstruction filters in computer graphics",
    SIGGRAPH 1988, with B = C = 1/3.
    """
    if kernel == "lanczos3":
        return np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0.0)
    near, far = (21 * x - 36) * x * x + 16, ((-7 * x + 36) * x - 60) * x + 32
    return np.where(x < 1, near, np.where(x < 2, far, 0.0)) / 18


def interpolating(kernel: Kernel, distance: NDArray[np.float64]) -> NDArray[np.float32]:
    """The weights (taps, pixels) of the cells around a position `distance` cells after a cell's centre."""
    taps = _TAPS[kernel]
    x: NDArray[np.float64] = np.abs(distance - np.arange(1 - taps // 2, 1 + taps // 2)[:, None])
    if kernel == "linear":
        weights = 1 - x
    elif kernel == "cubic":
        near, far = (1.25 * x - 2.25) * x * x + 1, -0.75 * (((x - 5) * x + 8) * x - 4)
        weights = np.where(x <= 1, near, far)
    else:
        weights = np.sinc(x) * np.sinc(x / 4)
    share: NDArray[np.float64] = weights / weights.sum(0)
    return share.astype(np.float32)


def resample(image: Pixels, x: Axis, y: Axis, box: Box) -> Pixels:
    """Compute the pixels of a box of the result.

    Args:
        image: exactly the part of the input that `Axis.source` gives for both axes: gray (h, w) or RGB (h, w, 3).
    """
    across, weights_across = x.weights(box.x0, box.x1)
    down, weights_down = y.weights(box.y0, box.y1)
    pixels = _blend(reduce(image, x.factor, y.factor), down - down.min(), weights_down)
    across -= across.min()
    if len(across) == 1:
        pixels = pixels.take(across[0], axis=1)
    else:
        pixels = cv2.transpose(_blend(cv2.transpose(pixels), across, weights_across))
    return pixels if pixels.dtype == image.dtype else saturate(pixels, image.dtype)


def reduce(image: Pixels, factor_x: int, factor_y: int) -> Pixels:
    """The mean of each block of factor_x x factor_y pixels; the last blocks may be smaller."""
    if image.dtype == np.float32 and factor_x > 1 and factor_y > 1:
        # OpenCV's vector code sums a block of 2 x 2 floats in another order than its scalar code does.
        return reduce(reduce(image, factor_x, 1), 1, factor_y)
    if factor_x == factor_y == 1:
        return image
    spans_x, spans_y = _spans(image.shape[1], factor_x), _spans(image.shape[0], factor_y)
    return cv2.vconcat(
        [
            cv2.hconcat([_means(image[y0:y1, x0:x1], factor_x, factor_y) for x0, x1 in spans_x])
            for y0, y1 in spans_y
        ]
    )


def _spans(length: int, factor: int) -> list[tuple[int, int]]:
    """The range of pixels in complete blocks, and the range of the remaining pixels."""
    whole = length // factor * factor
    return [(start, stop) for start, stop in ((0, whole), (whole, length)) if start < stop]


def _means(image: Pixels, factor_x: int, factor_y: int) -> Pixels:
    height, width = image.shape[:2]
    size = (max(1, width // factor_x), max(1, height // factor_y))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


ROWS = 32
"""Number of rows that are blended together, so that the sums stay in the processor's cache."""


def _blend(image: Pixels, rows: NDArray[np.int64], weights: NDArray[np.float32]) -> Pixels:
    """Weighted sums of the rows (taps, n) of an image with the weights (taps, n): n rows of float32.

    If each sum has only one row, the rows are returned unchanged.
    """
    if len(rows) == 1:
        same: Pixels = image[rows[0]]
        return same
    weights = weights.reshape(*weights.shape, *[1] * (image.ndim - 1))
    blended = np.empty((rows.shape[1], *image.shape[1:]), np.float32)
    for start in range(0, rows.shape[1], ROWS):
        band = slice(start, start + ROWS)
        total = np.multiply(image[rows[0, band]], weights[0, band], out=blended[band])
        for tap in range(1, len(rows)):
            total += image[rows[tap, band]] * weights[tap, band]
    return blended
