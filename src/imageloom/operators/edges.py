"""Edges: where the image changes."""

from __future__ import annotations

from typing import Annotated, Literal

import cv2
from msgspec import Meta
from msgspec.structs import replace

from imageloom.model import Frame, Pixels
from imageloom.operators.registry import operator

Gradient = Annotated[float, Meta(ge=0, le=100_000)]


def _mask(frame: Frame, **_: object) -> Frame:
    return replace(frame, channels=1)


@operator(
    "global",
    dtypes=("uint8",),
    frame=_mask,
    alpha="drop",
    check=lambda low, high, **_: "low must not be above high" if low > high else None,
    examples=("canny 100 200", "canny low=100 high=200 aperture=5 l2=true"),
)
def canny(
    image: Pixels,
    *,
    low: Gradient = 100.0,
    high: Gradient = 200.0,
    aperture: Literal[3, 5, 7] = 3,
    l2: bool = False,
) -> Pixels:
    """Edges as thin white lines on black, by hysteresis between two gradients (OpenCV's Canny).

    J. Canny, "A computational approach to edge detection", IEEE Trans. PAMI 8 (1986). The gradient is the sum
    of the absolute Sobel derivatives of that aperture, or with l2 their Euclidean norm; of a colour image,
    the channel with the largest is taken. Transparency is not looked at.
    """
    return cv2.Canny(image, low, high, apertureSize=aperture, L2gradient=l2)
