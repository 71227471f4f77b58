"""Shared by the codecs that use Pillow. Imported only when needed, because the import takes 30 ms."""

from __future__ import annotations

import importlib
import io
import struct
import warnings
from typing import TYPE_CHECKING

import numpy as np

from imageloom.errors import CorruptImage
from imageloom.model import Frame, Pixels

if TYPE_CHECKING:
    from PIL.Image import Image

warnings.filterwarnings("ignore", module=r"PIL\.")  # a damaged file would print lines to the terminal
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def opened(data: bytes, plugin: str) -> Image:
    """Open a file with a Pillow plugin. `Image.open` is not used, because it has its own limits.

    Args:
        plugin: Pillow's name: Bmp, Gif or Avif.

    Raises:
        CorruptImage: the plugin cannot open the file.
    """
    module = importlib.import_module(f"PIL.{plugin}ImagePlugin")
    try:
        image: Image = getattr(module, f"{plugin}ImageFile")(io.BytesIO(data))
    except _ERRORS as error:
        raise _corrupt(plugin, error) from None
    return image


def decoded(image: Image, frame: Frame) -> Pixels:
    """Decode an opened file to gray, RGB or RGBA, as in the frame.

    Raises:
        CorruptImage: the file is cut off or damaged, or its size differs from its header.
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


_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    RuntimeError,
    struct.error,
)
"""The exceptions of Pillow's plugins for damaged files."""


def _corrupt(plugin: str, error: Exception) -> CorruptImage:
    return CorruptImage(f"the {plugin.upper()} cannot be decoded: {error}")
