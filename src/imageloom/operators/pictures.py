"""Pictures that steps name: PNG, JPEG and WebP, decoded by Pillow and OpenCV.

The codecs are of another layer. They handle metadata, damage and formats that a watermark does not need.
"""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imageloom.errors import OperatorRefused
from imageloom.model import Pixels
from imageloom.operators.values import top_of

MOST_PIXELS = 1 << 26
"""Maximum number of pixels of a picture."""
FORMATS = ("PNG", "JPEG", "WEBP")


def decoded(data: bytes) -> Pixels:
    """The pixels of a picture: gray (h, w), RGB or RGBA, with 8 or 16 bits.

    Raises:
        OperatorRefused: it is no picture in one of the formats, is damaged, or has too many pixels.
    """
    from PIL import Image  # few recipes need it

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as header:
            width, height = header.size
    except Exception as error:  # Pillow raises many kinds for damaged files
        said = "it is not a PNG, JPEG or WebP file" if isinstance(error, OSError) else str(error)
        raise OperatorRefused(f"the picture cannot be read: {said}") from None
    if width * height > MOST_PIXELS:
        raise OperatorRefused(
            f"the picture has {width * height:,} pixels ({width}x{height}), over the limit of {MOST_PIXELS:,}"
        )
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.shape[:2] != (height, width) or pixels.dtype not in (np.uint8, np.uint16):
        raise OperatorRefused("the picture cannot be read: it is damaged")
    if pixels.ndim == 2:
        return pixels
    found: Pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return found


def picture(data: bytes) -> NDArray[np.float32]:
    """A picture as RGBA (h, w, 4), from 0 to 1, with the colours multiplied by the alpha.

    Raises:
        OperatorRefused: see `decoded`.
    """
    pixels = decoded(data)
    values: NDArray[Any] = pixels.astype(np.float32) / np.float32(top_of(pixels.dtype))
    if values.ndim == 2:
        values = cv2.cvtColor(values, cv2.COLOR_GRAY2RGB)
    if values.shape[2] == 3:
        values = np.dstack((values, np.ones(values.shape[:2], np.float32)))
    values[..., :3] *= values[..., 3:]
    return values
