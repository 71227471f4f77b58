"""Morphology: the minimum and the maximum of the values around each pixel.

P. Soille, "Morphological Image Analysis", 2nd edition, 2004. Pixels outside the image are ignored. Alpha is not
changed.
"""

from __future__ import annotations

from typing import Literal

import cv2

from imageloom.model import Pixels
from imageloom.operators.registry import operator
from imageloom.operators.values import Odd, half, odd

Shape = Literal["square", "ellipse", "cross"]

_SHAPES = {"square": cv2.MORPH_RECT, "ellipse": cv2.MORPH_ELLIPSE, "cross": cv2.MORPH_CROSS}


def _element(kernel: int, shape: Shape) -> Pixels:
    return cv2.getStructuringElement(_SHAPES[shape], (kernel, kernel))


def _both(kernel: int, **_: object) -> int:
    return 2 * (kernel // 2)


@operator("local", halo=half, check=odd, alpha="keep", examples=("erode 3", "erode 5 ellipse"))
def erode(image: Pixels, *, kernel: Odd = 3, shape: Shape = "square") -> Pixels:
    """Replace each pixel by the minimum within the kernel around it: light areas shrink."""
    return cv2.erode(image, _element(kernel, shape))


@operator("local", halo=half, check=odd, alpha="keep", examples=("dilate 3", "dilate 5 cross"))
def dilate(image: Pixels, *, kernel: Odd = 3, shape: Shape = "square") -> Pixels:
    """Replace each pixel by the maximum within the kernel around it: light areas grow."""
    return cv2.dilate(image, _element(kernel, shape))


@operator("local", halo=_both, check=odd, alpha="keep", examples=("open 3", "open 7 ellipse"))
def open_(image: Pixels, *, kernel: Odd = 3, shape: Shape = "square") -> Pixels:
    """Erode, then dilate: light spots smaller than the kernel disappear."""
    return cv2.morphologyEx(image, cv2.MORPH_OPEN, _element(kernel, shape))


@operator("local", halo=_both, check=odd, alpha="keep", examples=("close 3", "close 7 ellipse"))
def close(image: Pixels, *, kernel: Odd = 3, shape: Shape = "square") -> Pixels:
    """Dilate, then erode: dark spots smaller than the kernel disappear."""
    return cv2.morphologyEx(image, cv2.MORPH_CLOSE, _element(kernel, shape))
