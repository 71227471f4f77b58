"""Pictures and texts laid over an image, at a place that its size decides."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import cv2
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from imageloom.errors import OperatorRefused
from imageloom.model import Box, Frame, Pixels
from imageloom.operators.named import Digest, File, loaded
from imageloom.operators.pictures import picture
from imageloom.operators.registry import operator
from imageloom.operators.values import ROWS, top_of

Gravity = Literal[
    "center", "north", "northeast", "east", "southeast", "south", "southwest", "west", "northwest"
]
Margin = Annotated[int, Meta(ge=0, le=100_000)]
Opacity = Annotated[float, Meta(ge=0, le=1)]
Scale = Annotated[
    str,
    Meta(
        pattern=r"^(?:100|\d{1,2})(?:\.\d{1,6})?%$",
        description="PERCENT% of the image's width, above 0% and up to 100%",
    ),
]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Layer(NamedTuple):
    """What is laid over an image: as many colours as the image has."""

    colours: NDArray[np.float32]
    """From 0 to 1, multiplied by the cover: (h, w) or (h, w, 3)."""
    cover: NDArray[np.float32]
    """From 0, transparent, to 1: (h, w)."""


def layer_of(pixels: NDArray[np.float32], is_gray: bool, opacity: float) -> Layer:
    """The layer from RGBA (h, w, 4), from 0 to 1, with the colours multiplied by the alpha."""
    pixels = pixels * np.float32(opacity)
    rgb = np.ascontiguousarray(pixels[..., :3])
    gray: NDArray[np.float32] = rgb[..., 0] * LUMA[0] + rgb[..., 1] * LUMA[1] + rgb[..., 2] * LUMA[2]
    return Layer(gray if is_gray else rgb, np.ascontiguousarray(pixels[..., 3]))


def place_of(length: int, own: int, gravity: Gravity, margin: int, before: str, after: str) -> int:
    """Where a layer begins on one axis of an image; below 0 if it is larger.

    Args:
        length, own: of the image and of the layer, in pixels.
        before, after: the directions of the axis.
    """
    if before in gravity:
        return margin
    return length - own - margin if after in gravity else (length - own) // 2


def laid_over(
    image: Pixels, box: Box, frame: Frame, layer: Layer, gravity: Gravity, margin: int, repeat: bool = False
) -> Pixels:
    """A part of an image with the layer over it (Porter and Duff's "over").

    Args:
        image: the pixels of the box.
        frame: that of the whole image.
        margin: between the layer and the image's edges, in pixels; with `repeat`, between copies too.
    """
    height, width = layer.cover.shape
    left = place_of(frame.width, width, gravity, margin, "west", "east")
    top = place_of(frame.height, height, gravity, margin, "north", "south")
    made = image.copy()
    for y in _places(top, height, margin, box.y0, box.y1, repeat):
        for x in _places(left, width, margin, box.x0, box.x1, repeat):
            common = Box(x, y, x + width, y + height).within(box)
            if common.x0 < common.x1 and common.y0 < common.y1:
                own = common.slices(Box(x, y, x + width, y + height))
                _blend(made[common.slices(box)], layer.colours[own], layer.cover[own])
    return made


def _places(first: int, length: int, margin: int, start: int, stop: int, repeat: bool) -> range:
    """Where the copies of a layer begin that may touch the pixels from start to stop of one axis."""
    if not repeat:
        return range(first, first + 1)
    step = length + margin
    return range(first + (start - first - length) // step * step, stop, step)


def _blend(under: Pixels, colours: NDArray[np.float32], cover: NDArray[np.float32]) -> None:
    """Lay colours over pixels, in place."""
    top = np.float32(top_of(under.dtype))
    for start in range(0, len(under), ROWS):
        band = slice(start, start + ROWS)
        under[band] = _over(under[band], colours[band] * top, cover[band], top)


def _over(under: Pixels, over: NDArray[np.float32], cover: NDArray[np.float32], top: np.float32) -> Pixels:
    rest = np.float32(1) - cover
    if under.ndim == 2:
        return _rounded(under * rest + over, under.dtype)
    if under.shape[2] == 3:
        return _rounded(under * rest[..., None] + over, under.dtype)
    own = under[..., -1] / top
    left = own * rest
    alpha = cover + left
    if over.ndim == 2:
        over = over[..., None]
    mixed = (under[..., :-1] * left[..., None] + over) / np.maximum(alpha, np.float32(1e-9))[..., None]
    made = np.concatenate((mixed, (alpha * top)[..., None]), axis=2)
    return _rounded(np.where((cover > 0)[..., None], made, under), under.dtype)


def _rounded(values: NDArray[Any], dtype: Any) -> Pixels:
    if dtype == np.float32:
        return values.astype(np.float32)
    rounded: Pixels = np.rint(np.clip(values, 0, top_of(dtype))).astype(dtype)
    return rounded


def _scaled(pixels: NDArray[np.float32], frame: Frame, scale: str | None) -> NDArray[np.float32]:
    """The picture in its size over an image."""
    if scale is None:
        return pixels
    height, width = pixels.shape[:2]
    wanted = max(1, round(frame.width * float(scale[:-1]) / 100))
    size = wanted, max(1, round(height * wanted / width))
    if size[1] > MOST_SIDE:
        raise OperatorRefused(f"overlay: the picture would be {size[1]:,} pixels high at scale={scale}")
    smaller = size[0] <= width and size[1] <= height
    scaled: Pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return scaled


MOST_SIDE = 65_535


def _overlaid(
    image: Pixels,
    *,
    box: Box,
    frame: Frame,
    file: str,
    gravity: Gravity,
    margin: int,
    opacity: float,
    scale: str | None,
    repeat: bool,
    digest: str,
) -> Pixels:
    pixels = _scaled(loaded(file, digest, picture), frame, scale)
    is_gray = image.ndim == 2 or image.shape[2] == 2
    return laid_over(image, box, frame, layer_of(pixels, is_gray, opacity), gravity, margin, repeat)


def _not_nothing(scale: str | None, **_: object) -> str | None:
    if scale is not None and not 0 < float(scale[:-1]) <= 100:
        return f"scale = {scale!r}: it must be above 0% and up to 100%"
    return None


def same_box(box: Box, frame: Frame, **_: object) -> Box:
    return box


@operator(
    "geometric",  # a pixel depends on its place
    source=same_box,
    part=_overlaid,
    check=_not_nothing,
    extra="refuse",
    file="file",
    examples=(
        "overlay logo.png",
        "overlay logo.png gravity=southeast margin=16 opacity=0.5 scale=20%",
        "overlay logo.png repeat=true opacity=0.2 margin=9",
    ),
)
def overlay(
    image: Pixels,
    *,
    file: File,
    gravity: Gravity = "southeast",
    margin: Margin = 16,
    opacity: Opacity = 1.0,
    scale: Scale | None = None,
    repeat: bool = False,
    digest: Digest = "",
) -> Pixels:
    """Lay a picture over the image: a watermark or a logo, a PNG, JPEG or WebP file with or without alpha.

    gravity is the side or corner at which it lies, margin its distance from the edges in pixels. scale is its
    width in percent of the image's width, with its proportions kept; without it, the picture has its own size.
    What lies beyond the image is cut off. repeat=true covers the image with copies, a margin apart. The picture's
    colours are those of the image, its profile is ignored. A gray image gets the luma of the picture.

    A run remembers the content of the file: if it is edited, outputs are made again.
    """
    box = Box(0, 0, image.shape[1], image.shape[0])
    given: dict[str, Any] = {"gravity": gravity, "margin": margin, "opacity": opacity, "scale": scale}
    whole = Frame(box.width, box.height, 1)
    return _overlaid(image, box=box, frame=whole, file=file, repeat=repeat, digest=digest, **given)
