"""The check that the values of a float image are from black (0) to white (1), before operators that need this."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imageloom.errors import OperatorRefused
from imageloom.model import Box, Frame, Pixels, Step
from imageloom.operators.measures import Measure
from imageloom.operators.registry import get, operator

Extremes = NDArray[np.float64]
"""The smallest value, the largest value, and the number of values that are not numbers."""


def with_checks(steps: Iterable[Step], frame: Frame) -> tuple[Step, ...]:
    """The steps with a check where values outside the range would be clipped.

    The check comes before the steps that may exceed the range slightly at edges (a resize, a sharpening): only the
    values of the file count, or those that an operator of a user returns.
    """
    checked: list[Step] = []
    start, is_known = 0, frame.dtype != "float32"
    for step in steps:
        one = get(step.name)
        if frame.dtype == "float32" and not one.function.__module__.startswith("imageloom.operators."):
            start, is_known = len(checked) + 1, False
        elif one.ranged and not is_known:
            checked.insert(start, Step("check_range", {"name": step.name}))
            is_known = True
        checked.append(step)
    return tuple(checked)


def _extremes(image: Pixels) -> Extremes:
    missing = int(np.isnan(image).sum())
    if missing == image.size:
        return np.array([np.inf, -np.inf, missing])
    return np.array([np.nanmin(image), np.nanmax(image), missing], np.float64)


def _merged(one: Extremes, other: Extremes) -> Extremes:
    return np.array([min(one[0], other[0]), max(one[1], other[1]), one[2] + other[2]])


def _checked(found: Extremes, name: str) -> Step:
    low, high, missing = found.tolist()
    if missing:
        said = f"{missing:,.0f} values that are not numbers (NaN)"
    elif low < 0 or high > 1:
        said = f"values from {low:g} to {high:g}"
    else:
        return Step("auto_orient")
    raise OperatorRefused(
        f"{name} needs values from 0 (black) to 1 (white), and this float image has {said}: scale them to this "
        "range first, by an operator of your own; resizes, crops, turns and blurs have no such bound"
    )


def _is_sound(found: Any, box: Box, name: str) -> bool:
    return bool(found.shape == (3,) and found.dtype == np.float64 and found[2] >= 0)


@operator(
    "global",
    dtypes=("float32",),
    measured=Measure(
        when=lambda **_: True, measure=_extremes, merge=_merged, resolve=_checked, sound=_is_sound
    ),
    examples=(),
    hidden=True,
)
def check_range(image: Pixels, *, name: str) -> Pixels:
    """Refuse an image with values outside the range that the operator of this name needs. It changes nothing."""
    raise AssertionError("the planner resolves check_range to a step that changes nothing")
