"""Resize: another number of pixels."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import cv2
from msgspec import Meta
from msgspec.structs import replace

from imageloom.model import Frame, Pixels
from imageloom.operators.registry import operator

_SIZE = r"^(?:(\d{1,7})x(\d{1,7})|(\d{1,7})x|x(\d{1,7})|(\d{1,5}(?:\.\d{1,6})?)%)$"
Size = Annotated[str, Meta(pattern=_SIZE)]
"""WIDTHxHEIGHT, WIDTHx, xHEIGHT or PERCENT%."""
Fit = Literal["exact", "inside", "cover"]
Kernel = Literal["auto", "nearest", "linear", "cubic", "lanczos", "area"]

_KERNELS = {
    "nearest": cv2.INTER_NEAREST_EXACT,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
    "area": cv2.INTER_AREA,
}


def target(width: int, height: int, size: str, fit: str, enlarge: bool) -> tuple[int, int]:
    """Width and height that `size` means for an image, before a cover's overhang is cut off."""
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
        if fit == "inside":
            share_x = share_y = min(share_x, share_y)
        elif fit == "cover":
            share_x = share_y = max(share_x, share_y)
    if not enlarge and max(share_x, share_y) > 1:
        share_x = share_y = 1.0
    return max(1, round(width * share_x)), max(1, round(height * share_y))


def box_of_cover(width: int, height: int, size: str, fit: str) -> tuple[int, int] | None:
    """What of a resized image of width x height a cover keeps; None where it keeps all."""
    found = re.match(_SIZE, size)
    assert found is not None, size
    if fit != "cover" or not found[1]:
        return None
    kept = min(width, int(found[1])), min(height, int(found[2]))
    return None if kept == (width, height) else kept


def _resized(frame: Frame, size: str, fit: str, kernel: str, enlarge: bool) -> Frame:
    width, height = target(frame.width, frame.height, size, fit, enlarge)
    kept = box_of_cover(width, height, size, fit)
    return replace(frame, width=kept[0] if kept else width, height=kept[1] if kept else height)


def _positive(size: str, fit: str, **_: object) -> str | None:
    numbers = [float(n) for n in re.findall(r"[\d.]+", size)]
    if not all(numbers):
        return f"size = {size!r}: must not be zero"
    if fit != "exact" and not re.match(r"^\d+x\d+$", size):
        return f"fit={fit} needs a size of WIDTHxHEIGHT, not {size}"
    return None


@operator(
    "geometric",
    frame=_resized,
    check=_positive,
    alpha="premultiply",
    examples=(
        "resize 512x512",
        "resize 512x",
        "resize x512",
        "resize 50%",
        "resize 512x512 fit=inside",
        "resize 512x512 fit=cover kernel=lanczos",
    ),
)
def resize(
    image: Pixels, *, size: Size, fit: Fit = "exact", kernel: Kernel = "auto", enlarge: bool = True
) -> Pixels:
    """Resize to WIDTHxHEIGHT exactly, or to WIDTHx, xHEIGHT or PERCENT% in proportion.

    fit=inside keeps the proportions within WIDTHxHEIGHT; fit=cover keeps them and cuts off what overhangs, so
    that the middle stays. enlarge=false leaves smaller images as they are. kernel=auto averages the area that
    each pixel covers (OpenCV's INTER_AREA) where both axes shrink and interpolates linearly otherwise. The
    interpolating kernels first average down to less than twice the size, so that none skips pixels.
    """
    height, width = image.shape[:2]
    new_width, new_height = target(width, height, size, fit, enlarge)
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
