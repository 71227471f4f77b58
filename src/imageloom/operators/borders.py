"""Borders: a frame of one colour around an image."""

from __future__ import annotations

import re
from typing import Annotated, Any

from msgspec import Meta
from msgspec.structs import replace

from imageloom.model import Box, Frame, Pixels
from imageloom.operators.geometry import Color, pad, pad_part, unpadded
from imageloom.operators.registry import operator

_WIDTH = r"^(?:(\d{1,5})x(\d{1,5})|(\d{1,3}(?:\.\d{1,6})?)%)$"
BorderWidth = (
    Annotated[int, Meta(ge=0, le=99_999)]
    | Annotated[
        str,
        Meta(
            pattern=_WIDTH,
            description="ACROSSxDOWN in pixels, or PERCENT% of the image's shorter side",
        ),
    ]
)


def area_of(frame: Frame, width: int | str) -> str:
    """The area of `pad` that makes this border."""
    across = down = width
    if isinstance(width, str):
        found = re.match(_WIDTH, width)
        assert found is not None, width
        across, down = found[1], found[2]
        if found[3]:
            across = down = round(min(frame.width, frame.height) * float(found[3]) / 100)
    across, down = int(across), int(down)
    return f"{frame.width + 2 * across}x{frame.height + 2 * down}+{across}+{down}"


def _bordered(frame: Frame, width: int | str, **_: object) -> Frame:
    across, down = area_of(frame, width).split("+")[0].split("x")
    return replace(frame, width=int(across), height=int(down))


def _source(box: Box, frame: Frame, width: int | str, **_: object) -> Box:
    return unpadded(box, frame, area_of(frame, width), "color")


def _part(image: Pixels, *, box: Box, frame: Frame, width: int | str, color: str) -> Pixels:
    return pad_part(image, box=box, frame=frame, area=area_of(frame, width), color=color, fill="color")


@operator(
    "geometric",
    frame=_bordered,
    source=_source,
    part=_part,
    examples=("border 16", "border 30x10 color=#202020", "border 4% color=#ffffff80"),
)
def border(image: Pixels, *, width: BorderWidth, color: Color = "#ffffff") -> Pixels:
    """Put a border of one colour around the image; the image itself keeps its size.

    The width is a number of pixels on each side, or ACROSSxDOWN: at the left and right, and at the top and bottom,
    or PERCENT% of the image's shorter side. The color is #RRGGBB or #RRGGBBAA. A gray image gets the luma of the
    color, and an image without alpha ignores the color's alpha.
    """
    frame = Frame(image.shape[1], image.shape[0], 1)
    values: dict[str, Any] = {"area": area_of(frame, width), "color": color}
    return pad(image, **values)
