"""Geometry: pixels that move and keep their values."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import cv2
import numpy as np
from msgspec import Meta
from msgspec.structs import replace

from imageloom.model import Frame, Pixels
from imageloom.operators.registry import operator

_AREA = r"^(\d{1,7})x(\d{1,7})(?:\+(\d{1,7})\+(\d{1,7}))?$"
Area = Annotated[str, Meta(pattern=_AREA)]
"""WIDTHxHEIGHT of the middle, or WIDTHxHEIGHT+LEFT+TOP."""


def crop_box(width: int, height: int, area: str) -> tuple[int, int, int, int]:
    """The box x0, y0, x1, y1 that `area` cuts out of an image; it may reach beyond the image."""
    found = re.match(_AREA, area)
    assert found is not None, area
    w, h = int(found[1]), int(found[2])
    x, y = (int(found[3]), int(found[4])) if found[3] else ((width - w) // 2, (height - h) // 2)
    return x, y, x + w, y + h


def _cropped(frame: Frame, area: str) -> Frame:
    x0, y0, x1, y1 = crop_box(frame.width, frame.height, area)
    return replace(frame, width=x1 - x0, height=y1 - y0)


def _outside(frame: Frame, area: str) -> str | None:
    x0, y0, x1, y1 = crop_box(frame.width, frame.height, area)
    if x0 < 0 or y0 < 0 or x1 > frame.width or y1 > frame.height:
        return f"{area} reaches beyond the image of {frame.width}x{frame.height}"
    return None


def _empty(area: str) -> str | None:
    x0, y0, x1, y1 = crop_box(0, 0, area)
    return f"{area} holds no pixel" if x1 == x0 or y1 == y0 else None


@operator(
    "geometric",
    frame=_cropped,
    refuse=_outside,
    check=_empty,
    examples=("crop 640x480", "crop 640x480+10+20"),
)
def crop(image: Pixels, *, area: Area) -> Pixels:
    """Cut out WIDTHxHEIGHT+LEFT+TOP, or WIDTHxHEIGHT of the middle."""
    x0, y0, x1, y1 = crop_box(image.shape[1], image.shape[0], area)
    return np.ascontiguousarray(image[y0:y1, x0:x1])


@operator("geometric", examples=("flip", "flip horizontal", "flip vertical"))
def flip(image: Pixels, *, axis: Literal["horizontal", "vertical"] = "horizontal") -> Pixels:
    """Mirror left to right (horizontal) or top to bottom (vertical)."""
    return cv2.flip(image, 1 if axis == "horizontal" else 0)


_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


def _turned(frame: Frame, degrees: int) -> Frame:
    return frame if degrees == 180 else replace(frame, width=frame.height, height=frame.width)


@operator("geometric", frame=_turned, examples=("rotate 90", "rotate 180", "rotate 270"))
def rotate(image: Pixels, *, degrees: Literal[90, 180, 270]) -> Pixels:
    """Turn by 90, 180 or 270 degrees clockwise."""
    return cv2.rotate(image, _TURNS[degrees])
