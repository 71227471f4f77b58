"""Tone: operators that change each pixel independently of the others."""

from __future__ import annotations

from typing import Annotated

import cv2
import numpy as np
from msgspec import Meta
from msgspec.structs import replace

from imageloom.model import Frame, Pixels
from imageloom.operators.registry import operator
from imageloom.operators.values import by_value, in_vectors, look_up, mix

Factor = Annotated[float, Meta(ge=0, le=10)]

_LUMA = np.array([0.299, 0.587, 0.114])
"""The weights of R, G and B in ITU-R BT.601's luma."""

_SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])
"""The R, G and B of the output (rows) as weights of the R, G and B of the input (columns)."""


def _gray(frame: Frame) -> Frame:
    return replace(frame, channels={3: 1, 4: 2}.get(frame.channels, frame.channels))


def _colour(frame: Frame, **_: object) -> Frame:
    return replace(frame, channels={1: 3, 2: 4}.get(frame.channels, frame.channels))


@operator("point", frame=_gray, examples=("grayscale",))
def grayscale(image: Pixels) -> Pixels:
    """Convert to gray: 0.299 R + 0.587 G + 0.114 B (luma of ITU-R BT.601, OpenCV's COLOR_RGB2GRAY)."""
    if image.ndim == 2:
        return image
    if image.dtype != np.float32:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return in_vectors(lambda wider: cv2.cvtColor(wider, cv2.COLOR_RGB2GRAY), image)


@operator("point", examples=("to_srgb",))
def to_srgb(image: Pixels) -> Pixels:
    """Convert the colours to sRGB, from what the file states: a profile, codes, a gamma, or EXIF's Adobe RGB.

    The intent is relative colorimetric. Gray remains gray. Nothing changes if the file states nothing or sRGB.
    """
    return image  # plans replace it by `convert_from` where the file states other colours


@operator("point", ranged=True, examples=(), hidden=True)
def convert_from(image: Pixels, *, colours: str) -> Pixels:
    """Convert the colours to sRGB, from those of a `Header`."""
    from imageloom.colours import convert  # few files need it

    return convert.to_srgb(image, colours)


@operator("point", channelwise=True, ranged=True, examples=("invert",))
def invert(image: Pixels) -> Pixels:
    """Make the negative: each value becomes the maximum of its dtype minus the value."""
    return cv2.bitwise_not(image) if image.dtype != np.float32 else np.float32(1) - image


@operator("point", channelwise=True, ranged=True, examples=("brightness 10", "brightness -25.5"))
def brightness(image: Pixels, *, amount: Annotated[float, Meta(ge=-255, le=255)]) -> Pixels:
    """Add an amount to each value: lighter if positive, darker if negative.

    The amount is from -255 to 255, and is scaled to the range of 16-bit and float images. Values are clipped at
    black and white.
    """
    return by_value(image, lambda value: value + amount / 255)


@operator("point", channelwise=True, ranged=True, examples=("contrast 1.2", "contrast 0.5"))
def contrast(image: Pixels, *, factor: Factor) -> Pixels:
    """Multiply each value's distance from the middle of the range: more contrast if factor > 1, less if < 1.

    1 changes nothing, 0 gives uniform gray. Values are clipped at black and white.
    """
    return by_value(image, lambda value: (value - 0.5) * factor + 0.5)


@operator("point", channelwise=True, ranged=True, examples=("gamma 1.2", "gamma 0.45"))
def gamma(image: Pixels, *, value: Annotated[float, Meta(ge=0.05, le=20)]) -> Pixels:
    """Raise each value, scaled to 0 to 1, to the power of 1 / gamma. A gamma above 1 makes the image lighter."""
    return by_value(image, lambda level: np.maximum(level, 0) ** (1 / value))


@operator("point", channelwise=True, ranged=True, examples=("posterize 4",))
def posterize(image: Pixels, *, levels: Annotated[int, Meta(ge=2, le=256)]) -> Pixels:
    """Round each value to the nearest of a number of evenly spaced levels from black to white."""
    return by_value(image, lambda value: np.rint(value * (levels - 1)) / (levels - 1))


@operator("point", ranged=True, examples=("saturation 1.5", "saturation 0"))
def saturation(image: Pixels, *, factor: Factor) -> Pixels:
    """Multiply each channel's distance from the luma: more colour if factor > 1, less if < 1.

    1 changes nothing, 0 gives gray. Gray images are not changed. The luma is that of `grayscale`.
    """
    if image.ndim == 2:
        return image
    return mix(image, factor * np.eye(3) + (1 - factor) * _LUMA)


@operator("point", frame=_colour, ranged=True, examples=("sepia", "sepia 0.6"))
def sepia(image: Pixels, *, amount: Annotated[float, Meta(ge=0, le=1)] = 1.0) -> Pixels:
    """Tint the image brown, like an old photograph, by an amount from 0 to 1. Gray images become RGB.

    The matrix is that of the sepia filter in W3C's Filter Effects Module Level 1.
    """
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return mix(image, amount * _SEPIA + (1 - amount) * np.eye(3))


@operator("point", extra="drop", examples=(), hidden=True)
def drop_extra(image: Pixels) -> Pixels:
    """Remove extra samples, for formats that cannot hold them."""
    return image


@operator("point", channelwise=True, dtypes=("uint8",), examples=(), hidden=True)
def table(image: Pixels, *, values: str) -> Pixels:
    """Look each value up in a table of 256 bytes, in hexadecimal. Replaces a sequence of channelwise steps."""
    return look_up(image, np.frombuffer(bytes.fromhex(values), np.uint8))
