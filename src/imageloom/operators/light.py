"""Linear light: means of colours that are proportional to the light, as a lens or an eye mixes it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imageloom.model import Pixels

Light = Literal["encoded", "linear"]
"""encoded: values are averaged as they are. linear: they are converted to linear light before, by the curve of
sRGB, and back after."""


def in_linear_light(run: Callable[[Pixels], Pixels], image: Pixels) -> Pixels:
    """Run a function on an image in linear light: float32 from 0 to 1. Alpha is not converted, but scaled."""
    colours = image.shape[2] - 1 if image.ndim == 3 and image.shape[2] in (2, 4) else None
    if colours is None:
        return _encoded(run(_linear(image)), image.dtype)
    top = np.float32(1 if image.dtype == np.float32 else np.iinfo(image.dtype).max)
    made = run(np.dstack((_linear(image[..., :colours]), image[..., colours].astype(np.float32) / top)))
    alpha = np.clip(made[..., colours], 0, 1) * top
    alpha = alpha if image.dtype == np.float32 else np.rint(alpha).astype(image.dtype)
    return np.dstack((_encoded(made[..., :colours], image.dtype), alpha))


def _linear(values: Pixels) -> Pixels:
    if values.dtype == np.float32:
        return _to_linear(values).astype(np.float32)
    found: Pixels = _linear_levels(values.dtype.name)[values]
    return found


def _encoded(values: Pixels, dtype: Any) -> Pixels:
    if dtype == np.float32:
        return _from_linear(values).astype(np.float32)
    clipped = np.clip(values, 0, 1)
    if dtype == np.uint8:
        found: Pixels = _encoded_levels()[np.rint(clipped * np.float32(_FINE)).astype(np.uint16)]
        return found
    levels: Pixels = np.rint(_from_linear(clipped) * np.float32(np.iinfo(dtype).max)).astype(dtype)
    return levels


_FINE = 65535
"""The number of steps of linear light for 8 bits. In the dark, a level is 20 of them."""


@cache
def _linear_levels(dtype: str) -> NDArray[np.float32]:
    """The light of each level of an integer dtype."""
    top = np.iinfo(dtype).max
    light: NDArray[np.float32] = _to_linear(np.arange(top + 1) / top).astype(np.float32)
    return light


@cache
def _encoded_levels() -> NDArray[np.uint8]:
    """The level of 8 bits for each step of light."""
    levels: NDArray[np.uint8] = np.rint(_from_linear(np.arange(_FINE + 1) / _FINE) * 255).astype(np.uint8)
    return levels


def _to_linear(values: NDArray[Any]) -> NDArray[Any]:
    """The curve of sRGB (IEC 61966-2-1)."""
    steep = ((np.maximum(values, 0) + values.dtype.type(0.055)) / values.dtype.type(1.055)) ** 2.4
    light: NDArray[Any] = np.where(values <= 0.04045, values / values.dtype.type(12.92), steep)
    return light


def _from_linear(values: NDArray[Any]) -> NDArray[Any]:
    steep = values.dtype.type(1.055) * np.maximum(values, 0) ** values.dtype.type(1 / 2.4)
    low = values * values.dtype.type(12.92)
    encoded: NDArray[Any] = np.where(values <= 0.0031308, low, steep - values.dtype.type(0.055))
    return encoded
