"""Blurs: each pixel from its neighbours."""

from __future__ import annotations

import math
from typing import Annotated

import cv2
from msgspec import Meta

from imageloom.model import Frame, Pixels
from imageloom.operators.registry import operator

Sigma = Annotated[float, Meta(gt=0, le=100)]
Kernel = Annotated[int, Meta(ge=1, le=601)]


def gaussian_radius(sigma: float | None, kernel: int | None) -> int:
    """How far a Gaussian kernel reaches: 3 standard deviations, or half of the given kernel."""
    if kernel is not None:
        return kernel // 2
    return math.ceil(3 * (sigma or 0.0))


def _one_of(sigma: float | None, kernel: int | None) -> str | None:
    if (sigma is None) == (kernel is None):
        return "give either sigma or kernel"
    return _odd(kernel) if kernel is not None else None


def _odd(kernel: int) -> str | None:
    return None if kernel % 2 else f"kernel = {kernel}: must be odd"


@operator(
    "local",
    halo=gaussian_radius,
    check=_one_of,
    examples=("gaussian_blur 1.2", "gaussian_blur sigma=1.2", "gaussian_blur kernel=21"),
)
def gaussian_blur(image: Pixels, *, sigma: Sigma | None = None, kernel: Kernel | None = None) -> Pixels:
    """Blur with a Gaussian of standard deviation sigma, in pixels, cut off at 3 sigma.

    With kernel (an odd number of pixels) instead, sigma is a third of it. OpenCV's GaussianBlur; the image is
    mirrored at its edges.
    """
    size = 2 * gaussian_radius(sigma, kernel) + 1
    spread = sigma if sigma is not None else (kernel or 1) / 3
    return cv2.GaussianBlur(image, (size, size), spread)


def _median_takes(frame: Frame, kernel: int) -> str | None:
    if frame.dtype != "uint8" and kernel > 5:
        return f"kernel = {kernel}: {frame.dtype} pixels take 3 or 5"
    return None


@operator(
    "local",
    halo=lambda kernel: kernel // 2,
    check=_odd,
    refuse=_median_takes,
    alpha="keep",
    examples=("median_blur 5",),
)
def median_blur(image: Pixels, *, kernel: Annotated[int, Meta(ge=1, le=255)] = 3) -> Pixels:
    """The median of the square of kernel x kernel pixels around each (OpenCV's medianBlur).

    The edge is continued outwards. Images of 16 bits and of floats take kernels of 3 and 5.
    """
    return cv2.medianBlur(image, kernel)
