"""Blur and sharpen: each pixel is computed from its neighbours."""

from __future__ import annotations

import math
from typing import Annotated

import cv2
import numpy as np
from msgspec import Meta

from imageloom.model import Frame, Pixels
from imageloom.operators.channels import saturate
from imageloom.operators.light import Light
from imageloom.operators.registry import operator
from imageloom.operators.values import ROWS, half, in_bands, in_range, in_vectors, odd, top_of

Sigma = Annotated[float, Meta(gt=0, le=100)]
Kernel = Annotated[int, Meta(ge=1, le=601)]


def gaussian_radius(sigma: float | None, kernel: int | None, **_: object) -> int:
    """The radius of a Gaussian kernel in pixels: 3 standard deviations, or half of the given kernel."""
    if kernel is not None:
        return kernel // 2
    return math.ceil(3 * (sigma or 0.0))


def _one_of(sigma: float | None, kernel: int | None, **_: object) -> str | None:
    if (sigma is None) == (kernel is None):
        return "give either sigma or kernel"
    return odd(kernel) if kernel is not None else None


@operator(
    "local",
    halo=gaussian_radius,
    check=_one_of,
    examples=(
        "gaussian_blur 1.2",
        "gaussian_blur sigma=1.2",
        "gaussian_blur kernel=21",
        "gaussian_blur 4 light=linear",
    ),
)
def gaussian_blur(
    image: Pixels, *, sigma: Sigma | None = None, kernel: Kernel | None = None, light: Light = "encoded"
) -> Pixels:
    """Blur with a Gaussian of standard deviation sigma, in pixels, cut off at 3 sigma.

    Give either sigma, or kernel: the width of the kernel, an odd number of pixels. The same as OpenCV's
    GaussianBlur. The image is mirrored at its edges. light=linear averages light instead of values, by the curve
    of sRGB.
    """
    spread = sigma if sigma is not None else (kernel or 1) / 3
    return _gaussian(image, gaussian_radius(sigma, kernel), spread)


def _gaussian(image: Pixels, radius: int, sigma: float) -> Pixels:
    size = (2 * radius + 1, 2 * radius + 1)
    if image.dtype != np.float32:  # integers are summed in fixed point, which is exact
        return cv2.GaussianBlur(image, size, sigma)
    return in_vectors(lambda wider: cv2.GaussianBlur(wider, size, sigma), image, radius)


@operator("local", halo=half, check=odd, examples=("box_blur 5",))
def box_blur(image: Pixels, *, kernel: Kernel = 3, light: Light = "encoded") -> Pixels:
    """Replace each pixel by the mean of the kernel x kernel pixels around it (OpenCV's blur).

    The image is mirrored at its edges. light=linear averages light instead of values, by the curve of sRGB.
    """
    if image.dtype != np.float32:
        return in_vectors(lambda wider: cv2.blur(wider, (kernel, kernel)), image, kernel // 2)
    # OpenCV's box keeps a running sum, whose rounding depends on where it began: floats are summed afresh.
    weights = np.full(kernel, 1 / kernel, np.float32)
    return in_vectors(lambda wider: cv2.sepFilter2D(wider, -1, weights, weights), image, kernel // 2)


def _median_takes(frame: Frame, kernel: int) -> str | None:
    if frame.dtype != "uint8" and kernel > 5:
        return f"kernel = {kernel}: {frame.dtype} pixels take 3 or 5"
    return None


@operator(
    "local",
    halo=half,
    check=odd,
    refuse=_median_takes,
    alpha="keep",
    examples=("median_blur 5",),
)
def median_blur(image: Pixels, *, kernel: Annotated[int, Meta(ge=1, le=255)] = 3) -> Pixels:
    """Replace each pixel by the median of the kernel x kernel pixels around it (OpenCV's medianBlur).

    The edge pixels are repeated outwards. For 16-bit and float images, kernel must be 3 or 5.
    """
    return cv2.medianBlur(image, kernel)


@operator(
    "local",
    halo=half,
    check=odd,
    alpha="keep",
    ranged=True,
    examples=("bilateral", "bilateral 9 40 3"),
)
def bilateral(
    image: Pixels,
    *,
    kernel: Annotated[int, Meta(ge=3, le=51)] = 9,
    sigma_color: Annotated[float, Meta(gt=0, le=1000)] = 25.0,
    sigma_space: Sigma = 3.0,
) -> Pixels:
    """Blur and keep edges: a neighbour has less weight the farther away and the more different it is.

    sigma_color is a difference of values on a scale from 0 to 255 for all dtypes; sigma_space is in pixels. Alpha
    is ignored and not changed. The same as OpenCV's bilateralFilter (C. Tomasi and R. Manduchi, "Bilateral
    filtering for gray and color images", ICCV 1998).
    """
    radius = kernel // 2
    if image.dtype == np.uint8:
        return in_vectors(
            lambda wider: cv2.bilateralFilter(wider, kernel, sigma_color, sigma_space), image, radius
        )

    def of_floats(wider: Pixels) -> Pixels:
        # OpenCV spreads its table of weights over the values that occur: black and white shall, out of reach.
        wider[0, -2:] = np.array([0, 1], np.float32).reshape(2, *[1] * (wider.ndim - 2))
        return cv2.bilateralFilter(wider, kernel, sigma_color / 255, sigma_space)

    top = np.float32(top_of(image.dtype))
    values = np.clip(image.astype(np.float32) / top, 0, 1)
    return in_range(in_vectors(of_floats, values, radius) * top, image.dtype)


def line(length: int, angle: float) -> list[tuple[int, int]]:
    """The pixels (x, y) of a line through (0, 0): `length` points one pixel apart, rounded to the nearest pixel.

    Args:
        angle: in degrees from the x axis towards the top of the image, whose y axis points down.
    """
    along = np.arange(length) - (length - 1) / 2
    direction = np.array([math.cos(math.radians(angle)), -math.sin(math.radians(angle))])
    # Rounded first: a tie must not be decided by the last bit of a cosine.
    points = np.floor(np.round(along[:, None] * direction, 9) + 0.5)
    return [(int(x), int(y)) for x, y in points]


def _line_reach(length: int, angle: float, **_: object) -> int:
    return max(abs(place) for point in line(length, angle) for place in point)


@operator("local", halo=_line_reach, examples=("motion_blur 15", "motion_blur 21 angle=45"))
def motion_blur(
    image: Pixels,
    *,
    length: Annotated[int, Meta(ge=1, le=255)],
    angle: Annotated[float, Meta(ge=-360, le=360)] = 0.0,
    light: Light = "encoded",
) -> Pixels:
    """Blur along a line of length pixels, at an angle in degrees counter-clockwise from the horizontal.

    Each pixel becomes the mean of the pixels nearest to points on the line, which are one pixel apart. The image
    is mirrored at its edges. light=linear averages light instead of values, by the curve of sRGB: bright points
    become bright lines.
    """
    points, reach = line(length, angle), _line_reach(length, angle)
    height, width = image.shape[:2]
    around = cv2.copyMakeBorder(image, reach, reach, reach, reach, cv2.BORDER_REFLECT_101)
    blurred = np.empty_like(image)
    for y0 in range(0, height, ROWS):
        rows = blurred[y0 : y0 + ROWS]
        # Shifted copies in the same order for every pixel: exact at any origin, which a filter by DFT is not.
        total = np.zeros(rows.shape, np.float32)
        for x, y in points:
            top, left = y0 + reach + y, reach + x
            cv2.accumulate(around[top : top + len(rows), left : left + width], total)
        rows[:] = saturate(total / np.float32(length), image.dtype)
    return blurred


@operator(
    "local",
    halo=lambda sigma, **_: gaussian_radius(sigma, None),
    examples=("sharpen", "sharpen 2 amount=0.5"),
)
def sharpen(
    image: Pixels, *, sigma: Sigma = 1.0, amount: Annotated[float, Meta(ge=0, le=10)] = 1.0
) -> Pixels:
    """Sharpen by an unsharp mask: add the difference between the image and its Gaussian blur, times the amount.

    sigma is the standard deviation of the blur, in pixels. Float values may exceed the range 0 to 1 at edges.
    """

    def add(pixels: Pixels, blurred: Pixels) -> Pixels:
        exact = pixels.astype(np.float32)
        return saturate(exact + (exact - blurred) * np.float32(amount), pixels.dtype)

    return in_bands(add, image, _gaussian(image, gaussian_radius(sigma, None), sigma))
