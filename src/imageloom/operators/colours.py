"""Colours: the hue, and the white balance."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import cv2
import numpy as np
from msgspec import Meta

from imageloom.model import Pixels, Step
from imageloom.operators.measures import Measure
from imageloom.operators.registry import operator
from imageloom.operators.statistics import Counts, histograms
from imageloom.operators.values import in_range, look_up, mix, top_of

_LUMA = np.array([0.213, 0.715, 0.072])
"""The weights of R, G and B in the luminance of the hue's matrix."""


def _turn(degrees: float) -> Pixels:
    """The matrix that turns the hue: W3C, Filter Effects Module Level 1, feColorMatrix of the type hueRotate."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    luma = np.tile(_LUMA, (3, 1))
    across = np.array([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]])
    turned: Pixels = luma + cosine * (np.eye(3) - luma) + sine * across
    return turned


@operator("point", ranged=True, examples=("hue 90", "hue -30"))
def hue(image: Pixels, *, degrees: Annotated[float, Meta(ge=-360, le=360)]) -> Pixels:
    """Turn the hue of each colour by an angle in degrees: 120 makes red green, green blue, and blue red.

    The luminance remains, and gray does not change. The matrix is that of hue-rotate in W3C's Filter Effects
    Module Level 1. Colours outside the range are clipped.
    """
    return image if image.ndim == 2 else mix(image, _turn(degrees))


def _gains(counts: Counts, method: str, cutoff: float) -> Step:
    """A step with the factor of each channel."""
    if len(counts) == 1:  # gray has no colour to balance
        return Step("auto_orient")
    levels = np.arange(counts.shape[1], dtype=np.float64)
    total = int(counts[0].sum())
    if method == "gray":
        # Black and white say nothing of the light: what is clipped has lost its colour.
        inner = counts[:, 1:-1]
        sums = [float((levels[1:-1] * channel).sum()) / max(1, int(channel.sum())) for channel in inner]
        target = sum(sums) / 3
    else:
        cut = int(total * cutoff / 100)
        sums = [float(len(c) - 1 - int(np.argmax(np.cumsum(c[::-1]) > cut))) for c in counts]
        target = max(sums)
    factors = [target / one if one > 0 else 1.0 for one in sums]
    return Step("balanced", {"factors": ",".join(f"{min(max(one, 0.1), 10.0):.9g}" for one in factors)})


@operator(
    "global",
    dtypes=("uint8", "uint16"),
    measured=Measure(when=lambda **_: True, measure=histograms, merge=np.add, resolve=_gains),
    examples=("white_balance", "white_balance white cutoff=1"),
)
def white_balance(
    image: Pixels,
    *,
    method: Literal["gray", "white"] = "gray",
    cutoff: Annotated[float, Meta(ge=0, lt=50)] = 1.0,
) -> Pixels:
    """Remove a colour cast: multiply each channel by a factor.

    method=gray makes the means of R, G and B equal (the gray world; values of black and white are not counted).
    method=white makes the lightest values equal, without the percentage `cutoff` of values above them. A factor is
    from 0.1 to 10. Gray images are not changed. Transparent pixels are counted too.
    """
    raise AssertionError("the planner resolves white_balance to factors")


@operator("point", dtypes=("uint8", "uint16"), examples=(), hidden=True)
def balanced(image: Pixels, *, factors: str) -> Pixels:
    """Multiply each channel by its factor; the factors are separated by commas."""
    top = top_of(image.dtype)
    levels = np.arange(int(top) + 1, dtype=np.float64)
    planes = [
        look_up(plane, in_range(levels * float(factor), image.dtype))
        for plane, factor in zip(cv2.split(image), factors.split(","), strict=True)
    ]
    return cv2.merge(planes)
