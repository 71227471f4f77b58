"""Tone: what is done to each pixel by itself."""

from __future__ import annotations

import cv2
import numpy as np
from msgspec.structs import replace

from imageloom.model import Frame, Pixels
from imageloom.operators.registry import operator


def _gray(frame: Frame) -> Frame:
    return replace(frame, channels={3: 1, 4: 2}.get(frame.channels, frame.channels))


@operator("point", frame=_gray, examples=("grayscale",))
def grayscale(image: Pixels) -> Pixels:
    """Luma of the colours: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601, OpenCV's COLOR_RGB2GRAY)."""
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


@operator("point", channelwise=True, examples=("invert",))
def invert(image: Pixels) -> Pixels:
    """The negative: each value becomes the largest value less itself."""
    return cv2.bitwise_not(image) if image.dtype != np.float32 else np.float32(1) - image


@operator("point", channelwise=True, dtypes=("uint8",), examples=(), hidden=True)
def table(image: Pixels, *, values: str) -> Pixels:
    """Look each value up in a table of 256 bytes, in hexadecimal: many steps folded into one."""
    return cv2.LUT(image, np.frombuffer(bytes.fromhex(values), np.uint8))
