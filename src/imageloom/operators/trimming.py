"""The operator `trim`, whose output's size is known only when the pixels are.

The steps after it are therefore planned with the largest size that it may leave, and checked again in the worker,
with the size that it did leave: `checked`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta

from imageloom.errors import LimitExceeded
from imageloom.model import Frame, Pixels, Step
from imageloom.operators.geometry import Color, pixel_of
from imageloom.operators.registry import get, operator
from imageloom.operators.values import ROWS, top_of


@operator(
    "global",
    alpha="together",
    extra="refuse",
    shrinks=True,
    examples=("trim", "trim 4", "trim 20 color=#ffffff"),
)
def trim(
    image: Pixels,
    *,
    tolerance: Annotated[float, Meta(ge=0, le=255)] = 10.0,
    color: Color | None = None,
) -> Pixels:
    """Cut off a border of one colour: that of the top left pixel, or the given color, #RRGGBB or #RRGGBBAA.

    tolerance is the difference, from 0 to 255 for all dtypes, up to which a value of any channel counts as that
    colour. Of a transparent border, only the alpha counts. An image of that colour alone is not changed.

    The size of the output is known only when the pixels are: the image is processed as a whole, never in tiles.
    """
    wanted = image[0, 0] if color is None else np.array(pixel_of(color, image))[: image[0, 0].size]
    background = np.atleast_1d(wanted).astype(np.float64)
    most = tolerance * top_of(image.dtype) / 255
    has_alpha = image.ndim == 3 and image.shape[2] in (2, 4)
    if has_alpha and background[-1] == 0:
        channels, background = image[..., -1:], background[-1:]
    else:
        channels = image.reshape(*image.shape[:2], -1)
    rows = np.zeros(len(image), bool)
    columns = np.zeros(image.shape[1], bool)
    low, high = background - most, background + most
    for start in range(0, len(image), ROWS):
        band = channels[start : start + ROWS]
        differs: Pixels = np.any(np.logical_or(band < low, band > high), axis=2)
        rows[start : start + ROWS] = differs.any(axis=1)
        columns |= differs.any(axis=0)
    if not rows.any():
        return image.copy()
    top, bottom = _span(rows)
    left, right = _span(columns)
    return np.ascontiguousarray(image[top:bottom, left:right])


def _span(used: Pixels) -> tuple[int, int]:
    places = np.flatnonzero(used)
    return int(places[0]), int(places[-1]) + 1


def length_before(steps: Sequence[Step]) -> int:
    """The number of steps up to and with the first one after which the size is not known; all if there is none."""
    return next((at + 1 for at, step in enumerate(steps) if get(step.name).shrinks), len(steps))


def is_known(steps: Iterable[Step]) -> bool:
    """Whether the size of the result follows from that of the image."""
    return not any(get(step.name).shrinks for step in steps)


def checked(step: Step, image: Pixels, extra: int, most_pixels: int = 1 << 40) -> Step:
    """A step after one that shrinks, checked with the image that it gets.

    Raises:
        OperatorRefused: the step does not accept the image.
        LimitExceeded: its result would have more pixels than the limit.
    """
    frame = Frame.of(image)
    after = get(step.name).frame_after(
        step, Frame(frame.width, frame.height, frame.channels, frame.dtype, extra)
    )
    if after.pixels > most_pixels:
        raise LimitExceeded(
            f"{step.name} would make an image of {after.pixels:,} pixels ({after.width}x{after.height}), over the "
            f"limit of {most_pixels:,} (--max-pixels)"
        )
    return step
