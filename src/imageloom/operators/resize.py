"""The operator `resize`."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from msgspec import Meta
from msgspec.structs import replace

from imageloom.model import Box, Frame, Pixels, Step, Value
from imageloom.operators.geometry import Color
from imageloom.operators.light import Light
from imageloom.operators.registry import operator
from imageloom.operators.resample import SPREAD, Axis, resample

_SIZE = r"^(?:(\d{1,7})x(\d{1,7})|(\d{1,7})x|x(\d{1,7})|(\d{1,5}(?:\.\d{1,6})?)%)$"
Size = Annotated[
    str,
    Meta(pattern=_SIZE, description="WIDTHxHEIGHT, WIDTHx, xHEIGHT or PERCENT%, in pixels without a unit"),
]
Fit = Literal["exact", "inside", "cover", "pad", "max", "min"]
Kernel = Literal["auto", "nearest", "linear", "cubic", "lanczos", "area", "lanczos3", "mitchell"]
_NO_COLOR = "#000000"

_KERNELS = {
    "nearest": cv2.INTER_NEAREST_EXACT,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
    "area": cv2.INTER_AREA,
}


@lru_cache(maxsize=4096)
def target(width: int, height: int, size: str, fit: str, enlarge: bool) -> tuple[int, int]:
    """Width and height in pixels that `size` means for an image, before fit=cover crops it or fit=pad pads it."""
    found = re.match(_SIZE, size)
    assert found is not None, size
    if found[5]:
        share_x = share_y = float(found[5]) / 100
    elif found[3]:
        share_x = share_y = int(found[3]) / width
    elif found[4]:
        share_x = share_y = int(found[4]) / height
    else:
        share_x, share_y = int(found[1]) / width, int(found[2]) / height
        if fit in ("inside", "pad", "max"):
            share_x = share_y = min(share_x, share_y)
        elif fit in ("cover", "min"):
            share_x = share_y = max(share_x, share_y)
    if (not enlarge or fit == "max") and max(share_x, share_y) > 1:
        share_x = share_y = 1.0
    return max(1, round(width * share_x)), max(1, round(height * share_y))


@lru_cache(maxsize=4096)
def box_of_cover(width: int, height: int, size: str, fit: str) -> tuple[int, int] | None:
    """Width and height of the area that fit=cover keeps of a resized image; None if nothing is cropped."""
    found = re.match(_SIZE, size)
    assert found is not None, size
    if fit != "cover" or not found[1]:
        return None
    kept = min(width, int(found[1])), min(height, int(found[2]))
    return None if kept == (width, height) else kept


def box_of_pad(size: str, fit: str) -> tuple[int, int] | None:
    """Width and height to which fit=pad pads a resized image; None if nothing is padded."""
    width, _, height = size.partition("x")
    return (int(width), int(height)) if fit == "pad" else None


def padded(size: str, fit: str, background: str) -> tuple[Step, ...]:
    """The step that follows the resize, for fit=pad."""
    if (box := box_of_pad(size, fit)) is None:
        return ()
    color: dict[str, Value] = {} if background == _NO_COLOR else {"color": background}
    return (Step("pad", {"area": f"{box[0]}x{box[1]}", **color}),)


def _in_steps(
    frame: Frame, size: str, fit: str, kernel: str, enlarge: bool, light: str, background: str
) -> tuple[Step, ...]:
    """A resize with fit=pad as a resize and a pad; otherwise empty."""
    if fit != "pad":
        return ()
    width, height = target(frame.width, frame.height, size, fit, enlarge)
    usual = {"kernel": "auto", "light": "encoded"}
    given = {"kernel": kernel, "light": light}
    kept: dict[str, Value] = {name: value for name, value in given.items() if value != usual[name]}
    return Step("resize", {"size": f"{width}x{height}", **kept}), *padded(size, fit, background)


def _resized(frame: Frame, size: str, fit: str, enlarge: bool, **_: object) -> Frame:
    if pad := box_of_pad(size, fit):
        return replace(frame, width=pad[0], height=pad[1])
    width, height = target(frame.width, frame.height, size, fit, enlarge)
    kept = box_of_cover(width, height, size, fit)
    return replace(frame, width=kept[0] if kept else width, height=kept[1] if kept else height)


LARGE = 1 << 25
"""Images with more pixels, before or after the resize, are resized by `resample`, which can work in tiles."""


def _is_large(width: int, height: int, new_width: int, new_height: int) -> bool:
    return max(width * height, new_width * new_height) > LARGE


def _whole(frame: Frame, size: str, fit: str, kernel: str, enlarge: bool, **_: object) -> str | None:
    if (
        kernel in SPREAD
        or fit == "pad"
        or _is_large(frame.width, frame.height, *target(frame.width, frame.height, size, fit, enlarge))
    ):
        return None
    return f"resizes images of up to {LARGE:,} pixels as a whole"


def _axes(
    frame: Frame, size: str, fit: str, kernel: Kernel, enlarge: bool, **_: object
) -> tuple[Axis, Axis, int, int]:
    """How columns and rows are resampled, and the left and the top of the area that is kept."""
    width, height = target(frame.width, frame.height, size, fit, enlarge)
    if kernel == "auto":
        kernel = "area" if width <= frame.width and height <= frame.height else "linear"
    kept = box_of_cover(width, height, size, fit) or (width, height)
    left, top = (width - kept[0]) // 2, (height - kept[1]) // 2
    return Axis(frame.width, width, kernel), Axis(frame.height, height, kernel), left, top


def _source(box: Box, frame: Frame, **params: Any) -> Box:
    x, y, left, top = _axes(frame, **params)
    x0, x1 = x.source(box.x0 + left, box.x1 + left)
    y0, y1 = y.source(box.y0 + top, box.y1 + top)
    return Box(x0, y0, x1, y1)


def _resize_part(image: Pixels, *, box: Box, frame: Frame, **params: Any) -> Pixels:
    x, y, left, top = _axes(frame, **params)
    return resample(image, x, y, box.moved(left, top))


STRIP = 512
"""Number of rows of a large result that are computed together, to limit the memory of the sums."""


def _in_strips(image: Pixels, **params: Any) -> Pixels:
    frame = Frame(image.shape[1], image.shape[0], 1)
    made = _resized(frame, **params)
    strips = []
    for top in range(0, made.height, STRIP):
        box = Box(0, top, made.width, min(top + STRIP, made.height))
        source = image[_source(box, frame, **params).slices(Box.of(frame))]
        strips.append(_resize_part(source, box=box, frame=frame, **params))
    return np.concatenate(strips)


def _positive(size: str, fit: str, background: str, **_: object) -> str | None:
    numbers = [float(n) for n in re.findall(r"[\d.]+", size)]
    if not all(numbers):
        return f"size = {size!r}: must not be zero"
    if background != _NO_COLOR and fit != "pad":
        return f"background is the color of fit=pad, and fit is {fit}"
    if fit != "exact" and not re.match(r"^\d+x\d+$", size):
        return f"fit={fit} needs a size of WIDTHxHEIGHT, not {size}"
    return None


@operator(
    "geometric",
    frame=_resized,
    source=_source,
    part=_resize_part,
    whole=_whole,
    tiled_as=_in_steps,
    check=_positive,
    alpha="premultiply",
    examples=(
        "resize 512x512",
        "resize 512x",
        "resize x512",
        "resize 50%",
        "resize 512x512 fit=inside",
        "resize 512x512 fit=cover kernel=lanczos",
        "resize 64x64 fit=pad background=#ffffff",
        "resize 64x48 fit=max kernel=lanczos3 light=linear",
    ),
)
def resize(
    image: Pixels,
    *,
    size: Size,
    fit: Fit = "exact",
    kernel: Kernel = "auto",
    enlarge: bool = True,
    light: Light = "encoded",
    background: Color = _NO_COLOR,
) -> Pixels:
    """Resize to exactly WIDTHxHEIGHT pixels, or proportionally to WIDTHx, xHEIGHT or PERCENT%.

    fit=inside keeps the proportions and fits the image into WIDTHxHEIGHT. fit=cover keeps the proportions, fills
    WIDTHxHEIGHT and crops the rest around the centre. fit=pad is inside, and fills the rest of WIDTHxHEIGHT with
    the background, #RRGGBB or #RRGGBBAA. fit=max is inside, and never enlarges. fit=min is cover without the crop:
    neither side is smaller than that. enlarge=false never enlarges an image. A side has always one pixel at least.

    kernel=auto averages the area of each output pixel (OpenCV's INTER_AREA) if both axes shrink, and interpolates
    linearly otherwise. Interpolating kernels first average the image down to less than twice the target size, so
    that no pixel is skipped; lanczos3 (that of Pillow and libvips) and mitchell average by themselves.
    light=linear averages light instead of values, by the curve of sRGB: fine bright patterns keep their
    brightness. Images of more than 2**25 pixels use the same weights, with other rounding.
    """
    height, width = image.shape[:2]
    new_width, new_height = target(width, height, size, fit, enlarge)
    if (new_width, new_height) != (width, height) and (
        kernel in SPREAD or _is_large(width, height, new_width, new_height)
    ):
        return _in_strips(image, size=size, fit=fit, kernel=kernel, enlarge=enlarge)
    image = _resample(image, new_width, new_height, kernel)
    kept = box_of_cover(new_width, new_height, size, fit)
    if kept:
        x, y = (new_width - kept[0]) // 2, (new_height - kept[1]) // 2
        image = image[y : y + kept[1], x : x + kept[0]].copy()
    return image


def _resample(image: Pixels, width: int, height: int, kernel: Kernel) -> Pixels:
    have_height, have_width = image.shape[:2]
    if (width, height) == (have_width, have_height):
        return image
    if kernel in ("nearest", "area"):
        return cv2.resize(image, (width, height), interpolation=_KERNELS[kernel])
    if kernel == "auto":
        if width <= have_width and height <= have_height:
            return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        kernel = "linear"
    # Interpolation reads the pixels next to each new one: from twice the size on it would skip some.
    factor_x, factor_y = have_width // width, have_height // height
    if factor_x > 1 or factor_y > 1:
        reduced = (round(have_width / max(1, factor_x)), round(have_height / max(1, factor_y)))
        image = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (width, height), interpolation=_KERNELS[kernel])
