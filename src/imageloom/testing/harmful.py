"""Operators that fail or crash their worker on marked images. For engine tests, by `Recipe.operators`."""

from __future__ import annotations

import ctypes
import time

import numpy as np

from imageloom.model import Pixels
from imageloom.operators import operator


def _is_marked(image: Pixels) -> bool:
    """Whether an image is marked: all its pixels are red. The first pixel rules out most images cheaply."""
    return image.ndim == 3 and bool((image[0, 0] == (255, 0, 0)).all() and (image == (255, 0, 0)).all())


@operator("point", examples=("raise_on_dark",))
def raise_on_dark(image: Pixels) -> Pixels:
    """Raise an exception for a black image; return other images unchanged."""
    if not image.any():
        raise ValueError("it is too dark to see")
    return image


@operator("point", examples=("crash_on_red",))
def crash_on_red(image: Pixels) -> Pixels:
    """Crash: read the memory address 0."""
    if _is_marked(image):
        ctypes.string_at(0)
    return image


@operator("point", examples=("hang_on_red",))
def hang_on_red(image: Pixels) -> Pixels:
    """Hang: never return."""
    while _is_marked(image):
        time.sleep(60)
    return image


@operator("point", examples=("spin_on_red",))
def spin_on_red(image: Pixels) -> Pixels:
    """Never return, with a core at full load."""
    while _is_marked(image):
        pass
    return image


@operator("point", examples=("eat_memory_on_red",))
def eat_memory_on_red(image: Pixels) -> Pixels:
    """Allocate memory without end."""
    hoard = []
    while _is_marked(image):
        hoard.append(np.ones(16 << 20, np.uint8))
    return image


@operator("point", examples=("toil 0",))
def toil(image: Pixels, *, seconds: float) -> Pixels:
    """Keep the interpreter busy for `seconds`, on any image."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return image
