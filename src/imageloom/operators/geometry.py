"""Geometry: operators that move pixels and do not change their values."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Literal

import cv2
import numpy as np
from msgspec import Meta
from msgspec.structs import replace
from numpy.typing import NDArray

from imageloom.model import Box, Frame, Pixels, Step, Value
from imageloom.operators.registry import operator
from imageloom.operators.values import in_range, top_of

_AREA = r"^(\d{1,7})x(\d{1,7})(?:\+(\d{1,7})\+(\d{1,7}))?$"
Area = Annotated[
    str, Meta(pattern=_AREA, description="WIDTHxHEIGHT (centred) or WIDTHxHEIGHT+LEFT+TOP, in pixels")
]


@lru_cache(maxsize=4096)
def crop_box(width: int, height: int, area: str) -> tuple[int, int, int, int]:
    """The box (x0, y0, x1, y1) that `area` means in an image; it may extend beyond the image."""
    found = re.match(_AREA, area)
    assert found is not None, area
    w, h = int(found[1]), int(found[2])
    x, y = (int(found[3]), int(found[4])) if found[3] else ((width - w) // 2, (height - h) // 2)
    return x, y, x + w, y + h


At = Literal["center", "attention", "entropy"]


def is_fixed(step: Step) -> bool:
    """Whether the place of a crop follows from the size of the image alone."""
    return step.params.get("at", "center") == "center"


def cropped(frame: Frame, area: str, **_: object) -> Frame:
    x0, y0, x1, y1 = crop_box(frame.width, frame.height, area)
    return replace(frame, width=x1 - x0, height=y1 - y0)


def outside(frame: Frame, area: str, **_: object) -> str | None:
    x0, y0, x1, y1 = crop_box(frame.width, frame.height, area)
    if x0 < 0 or y0 < 0 or x1 > frame.width or y1 > frame.height:
        return f"{area} reaches beyond the image of {frame.width}x{frame.height}"
    return None


def _empty(area: str, at: str) -> str | None:
    x0, y0, x1, y1 = crop_box(0, 0, area)
    if "+" in area and at != "center":
        return f"at={at} finds the place of WIDTHxHEIGHT, and {area} has a place"
    return f"{area} contains no pixel" if x1 == x0 or y1 == y0 else None


def _uncropped(box: Box, frame: Frame, area: str, **_: object) -> Box:
    return box.moved(*crop_box(frame.width, frame.height, area)[:2])


def _found(frame: Frame, area: str, at: str) -> tuple[Step, ...]:
    """A crop with a place to be found, as the step that measures the image; otherwise empty."""
    if at == "center":
        return ()
    params: dict[str, Value] = {"area": area, "at": at, "width": frame.width, "height": frame.height}
    return (Step("crop_at", params),)


@operator(
    "geometric",
    frame=cropped,
    source=_uncropped,
    part=lambda image, **_: image,
    refuse=outside,
    check=_empty,
    tiled_as=_found,
    examples=("crop 640x480", "crop 640x480+10+20", "crop 640x480 at=attention", "crop 64x48 at=entropy"),
)
def crop(image: Pixels, *, area: Area, at: At = "center") -> Pixels:
    """Cut out the area WIDTHxHEIGHT+LEFT+TOP, in pixels, or WIDTHxHEIGHT from the centre.

    at=attention places WIDTHxHEIGHT around what draws attention: edges, skin, and saturated colours. at=entropy
    places it where the most detail is: it cuts off the less detailed of two opposite sides, again and again. Both
    follow `smartcrop` of libvips (J. Wagner's smartcrop.js) on a grid of cells; alpha is ignored.
    """
    x0, y0, x1, y1 = crop_box(image.shape[1], image.shape[0], area)
    return np.ascontiguousarray(image[y0:y1, x0:x1])


def _unflipped(box: Box, frame: Frame, axis: str) -> Box:
    if axis == "horizontal":
        return Box(frame.width - box.x1, box.y0, frame.width - box.x0, box.y1)
    return Box(box.x0, frame.height - box.y1, box.x1, frame.height - box.y0)


@operator("geometric", source=_unflipped, examples=("flip", "flip horizontal", "flip vertical"))
def flip(image: Pixels, *, axis: Literal["horizontal", "vertical"] = "horizontal") -> Pixels:
    """Mirror the image left to right (horizontal) or top to bottom (vertical)."""
    return cv2.flip(image, 1 if axis == "horizontal" else 0)


_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


def _turned(frame: Frame, degrees: int) -> Frame:
    return frame if degrees == 180 else replace(frame, width=frame.height, height=frame.width)


def _unturned(box: Box, frame: Frame, degrees: int) -> Box:
    width, height = frame.width, frame.height
    if degrees == 90:
        return Box(box.y0, height - box.x1, box.y1, height - box.x0)
    if degrees == 180:
        return Box(width - box.x1, height - box.y1, width - box.x0, height - box.y0)
    return Box(width - box.y1, box.x0, width - box.y0, box.x1)


@operator("geometric", frame=_turned, source=_unturned, examples=("rotate 90", "rotate 180", "rotate 270"))
def rotate(image: Pixels, *, degrees: Literal[90, 180, 270]) -> Pixels:
    """Rotate by 90, 180 or 270 degrees clockwise."""
    return cv2.rotate(image, _TURNS[degrees])


@operator("point", channelwise=True, examples=("auto_orient",))
def auto_orient(image: Pixels) -> Pixels:
    """Rotate by the EXIF orientation. This happens to every image anyway, when it is decoded.

    Therefore this step changes no pixel. It is accepted so that a pipeline can name it.
    """
    return image


Border = Annotated[int, Meta(ge=0, le=100_000)]
Color = Annotated[
    str,
    Meta(
        pattern=r"^#(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{8})$",
        description="#RRGGBB, or #RRGGBBAA with the alpha last",
    ),
]

_BORDERS = {"color": cv2.BORDER_CONSTANT, "edge": cv2.BORDER_REPLICATE, "mirror": cv2.BORDER_REFLECT_101}


def pad_box(width: int, height: int, area: int | str) -> tuple[int, int, int, int]:
    """The box (x0, y0, x1, y1) of the padded image, in coordinates of the original image."""
    if isinstance(area, int):
        return -area, -area, width + area, height + area
    found = re.match(_AREA, area)
    assert found is not None, area
    w, h = int(found[1]), int(found[2])
    x, y = (int(found[3]), int(found[4])) if found[3] else ((w - width) // 2, (h - height) // 2)
    return -x, -y, w - x, h - y


def _padded(frame: Frame, area: int | str, **_: object) -> Frame:
    x0, y0, x1, y1 = pad_box(frame.width, frame.height, area)
    return replace(frame, width=x1 - x0, height=y1 - y0)


def _too_small(frame: Frame, area: int | str, **_: object) -> str | None:
    x0, y0, x1, y1 = pad_box(frame.width, frame.height, area)
    if x0 > 0 or y0 > 0 or x1 < frame.width or y1 < frame.height:
        return f"{area} does not contain the image of {frame.width}x{frame.height}"
    return None


def _places(start: int, stop: int, length: int, fill: str) -> NDArray[np.int64]:
    """For the padded pixels from start to stop of one axis: the index of the original pixel that each one shows.

    start is relative to the first pixel of the image. Pixels with the padding colour get the nearest index.
    """
    places = np.arange(start, stop)
    if fill != "mirror" or length == 1:
        return np.clip(places, 0, length - 1)
    places = np.abs(places) % (2 * length - 2)
    return np.minimum(places, 2 * length - 2 - places)


def _shown(box: Box, frame: Frame, area: int | str, fill: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The columns and the rows of the original image that a box of the padded image shows."""
    x0, y0, _, _ = pad_box(frame.width, frame.height, area)
    box = box.moved(x0, y0)
    return _places(box.x0, box.x1, frame.width, fill), _places(box.y0, box.y1, frame.height, fill)


def unpadded(box: Box, frame: Frame, area: int | str, fill: str, **_: object) -> Box:
    """The box of the original image that a box of the padded image shows."""
    x, y = _shown(box, frame, area, fill)
    return Box(int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)


def pad_part(image: Pixels, *, box: Box, frame: Frame, area: int | str, color: str, fill: str) -> Pixels:
    """The pixels of a box of the padded image, from those of the original that it shows."""
    x, y = _shown(box, frame, area, fill)
    padded: Pixels = image[y - y.min()].take(x - x.min(), axis=1)
    if fill == "color":
        left, top, _, _ = pad_box(frame.width, frame.height, area)
        across = np.arange(box.x0 + left, box.x1 + left) == x
        down = np.arange(box.y0 + top, box.y1 + top) == y
        pixel = pixel_of(color, image)
        padded[~(down[:, None] & across)] = pixel[0] if image.ndim == 2 else pixel[: image.shape[2]]
    return padded


@operator(
    "geometric",
    frame=_padded,
    source=unpadded,
    part=pad_part,
    refuse=_too_small,
    examples=("pad 20", "pad 1920x1080", "pad 640x480+10+20 color=#ffffff", "pad 8 fill=mirror"),
)
def pad(
    image: Pixels,
    *,
    area: Border | Area,
    color: Color = "#000000",
    fill: Literal["color", "edge", "mirror"] = "color",
) -> Pixels:
    """Add a border of a number of pixels on each side, or extend the image to WIDTHxHEIGHT around its centre.

    WIDTHxHEIGHT+LEFT+TOP places the image at that position. The border has the color, #RRGGBB or #RRGGBBAA, or
    repeats the edge pixels (fill=edge), or mirrors the image (fill=mirror). A gray image gets the luma of the
    color, and an image without alpha ignores the color's alpha.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = pad_box(width, height, area)
    return cv2.copyMakeBorder(
        image, -y0, y1 - height, -x0, x1 - width, _BORDERS[fill], value=pixel_of(color, image)
    )


def pixel_of(color: str, image: Pixels) -> list[float]:
    """The color as a pixel of the image: gray, gray and alpha, RGB or RGBA, in the range of the image's dtype."""
    red, green, blue, *alpha = bytes.fromhex(color[1:])
    rgb = (
        [0.299 * red + 0.587 * green + 0.114 * blue]
        if image.ndim == 2 or image.shape[2] == 2
        else [red, green, blue]
    )
    values = np.array([*rgb, *(alpha or [255])]) * (top_of(image.dtype) / 255)
    return [float(value) for value in in_range(values, image.dtype)]
