"""Where the pixels of an input are in an output: what the steps of a plan do to positions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import nan

from imageloom import operators
from imageloom.codecs.placing import Placing
from imageloom.model import Frame, Step
from imageloom.operators.borders import area_of
from imageloom.operators.geometry import crop_box, is_fixed, pad_box

Point = tuple[float, float]
_UNKNOWN: Point = (nan, nan)


def placing(steps: Sequence[Step], original: Frame, decoded: Frame, after: Frame) -> Placing:
    """Where the positions of the stored image are after the steps.

    Args:
        original: the frame of the input's file.
        decoded: the frame before the first step.
        after: the frame of the output.
    """
    across, down = (decoded.width / original.width, 0.0), (0.0, decoded.height / original.height)
    start: Point = (0.0, 0.0)
    has_known_size = True
    for step, (before, then) in zip(steps, pairwise(operators.frames(steps, decoded)), strict=True):
        operator = operators.get(step.name)
        if step.name == "resize":
            if not has_known_size:
                return Placing(original, after, _UNKNOWN, _UNKNOWN, _UNKNOWN)
            x, y = then.width / before.width, then.height / before.height
            across, down, start = ((point[0] * x, point[1] * y) for point in (across, down, start))
        elif step.name == "crop" and is_fixed(step):
            left, top, _, _ = crop_box(before.width, before.height, str(step.params["area"]))
            start = (start[0] - left, start[1] - top)
        elif step.name == "crop" or operator.shrinks:
            start = _UNKNOWN
            has_known_size = has_known_size and not operator.shrinks
        elif step.name in ("pad", "border"):
            asked = step.params["width" if step.name == "border" else "area"]
            given = asked if isinstance(asked, int) else str(asked)
            area = area_of(before, given) if step.name == "border" else given
            left, top, _, _ = pad_box(before.width, before.height, area)
            start = (start[0] - left, start[1] - top)
        elif step.name in ("flip", "rotate"):
            across, down = _turned(step, across), _turned(step, down)
            x, y = _turned(step, start)
            # A direction that is reversed begins at the other edge.
            right, bottom = _turned(step, (before.width, before.height))
            start = (x - min(0.0, right), y - min(0.0, bottom))
        elif operator.kind(step) == "geometric" and not _stays(operator):
            return Placing(original, after, _UNKNOWN, _UNKNOWN, _UNKNOWN)
    return Placing(original, after, across, down, start)


def _turned(step: Step, point: Point) -> Point:
    """A direction after a flip or a rotation."""
    x, y = point
    if step.name == "flip":
        return (x, -y) if step.params.get("axis") == "vertical" else (-x, y)
    return {90: (-y, x), 180: (-x, -y), 270: (y, -x)}[int(str(step.params["degrees"]))]


def _stays(operator: operators.Operator) -> bool:
    """Whether a geometric operator only needs to know where a pixel is, as an overlay does, and moves none."""
    return operator.frame is None and operator.function.__module__.startswith("imageloom.operators.")
