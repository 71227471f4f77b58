"""What the codecs that use Pillow share. It is loaded when the first of their files comes: it costs 30 ms."""

from __future__ import annotations

import importlib
import io
import struct
from typing import TYPE_CHECKING

import numpy as np

from imageloom.errors import CorruptImage
from imageloom.model import Frame, Pixels

if TYPE_CHECKING:
    from PIL.Image import Image

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def opened(data: bytes, plugin: str) -> Image:
    """The image of a file, by the named plugin: not through `Image.open`, which has limits of its own.

    Args:
        plugin: as Pillow names it: Bmp, Gif, Avif.

    Raises:
        CorruptImage: the plugin does not take it.
    """
    module = importlib.import_module(f"PIL.{plugin}ImagePlugin")
    try:
        image: Image = getattr(module, f"{plugin}ImageFile")(io.BytesIO(data))
    except _ERRORS as error:
        raise _corrupt(plugin, error) from None
    return image


def decoded(image: Image, frame: Frame) -> Pixels:
    """The pixels of an opened file, gray, RGB or RGBA as the frame says.

    Raises:
        CorruptImage: it is cut off, damaged, or not of the size that its header says.
    """
    if image.size != (frame.width, frame.height):
        raise CorruptImage("its size differs from the size in its header")
    try:
        pixels: Pixels = np.asarray(image.convert(_MODES[frame.channels]))
    except _ERRORS as error:
        raise _corrupt(image.format or "", error) from None
    if pixels.shape[:2] != (frame.height, frame.width):
        raise CorruptImage("its decoded size differs from the size in its header")
    return pixels


_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error)
"""What Pillow's plugins raise for damaged files."""


def _corrupt(plugin: str, error: Exception) -> CorruptImage:
    return CorruptImage(f"the {plugin.upper()} cannot be decoded: {error}")
