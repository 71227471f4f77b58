"""Images of other libraries: arrays and Pillow's images, as pixels and back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard, get_args

import numpy as np

from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.errors import UsageError
from imageloom.model import DType, Pixels

if TYPE_CHECKING:
    from PIL.Image import Image

_PLAIN = ("L", "LA", "RGB", "RGBA", "F")
_AS: dict[str, str] = {"1": "L", "RGBX": "RGB", "La": "LA", "RGBa": "RGBA"}
"""Modes of Pillow that become another one without a loss."""
DTYPES: tuple[DType, ...] = get_args(DType)
_EXIF = b"Exif\0\0"


def array_of(given: object, what: str = "image") -> Pixels:
    """An array of pixels that operators can use: contiguous, in the byte order of this machine.

    Args:
        given: gray (height, width), or gray+alpha, RGB or RGBA (height, width, 2 to 4), of uint8, uint16 or
            float32.
        what: name of the argument, for messages.

    Raises:
        UsageError: it is no such array.
    """
    if not isinstance(given, np.ndarray):
        raise UsageError(
            f"{what} = {_short(given)}: it must be an array, an imageloom.Image or a Pillow image"
        )
    image: Pixels = given
    channels = 1 if image.ndim == 2 else image.shape[2] if image.ndim == 3 else 0
    if channels not in (1, 2, 3, 4) or image.dtype.name not in DTYPES or image.size == 0:
        hint = {
            "float64": ": use .astype('float32')",
            "bool": ": use .astype('uint8') * 255",
        }.get(image.dtype.name, "")
        raise UsageError(
            f"{what}: an array of shape {image.shape} and dtype {image.dtype} is not an image: the shape must "
            f"be (height, width) or (height, width, 1 to 4), and the dtype one of {', '.join(DTYPES)}{hint}"
        )
    return np.ascontiguousarray(image, image.dtype.newbyteorder("="))


def is_pil(given: object) -> TypeGuard[Image]:
    """Whether it is an image of Pillow. Pillow is not imported for that."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(given, module.Image)


def from_pil(image: Image, what: str = "image") -> tuple[Pixels, Metadata]:
    """The upright pixels of an image of Pillow, with its EXIF and its colour profile.

    Args:
        what: name of the argument, for messages.

    Raises:
        UsageError: no pixels of imageloom can have its mode, such as CMYK.
        OSError: Pillow cannot decode its file.
    """
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    exif, profile = image.getexif(), image.info.get("icc_profile")
    known = Metadata(
        exif=exif.tobytes().removeprefix(_EXIF) if exif else b"",
        icc=profile if isinstance(profile, bytes) else b"",
    )
    mode = image.mode
    if mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif mode in ("1", "L", "RGB") and "transparency" in image.info:
        image = image.convert("RGBA" if mode == "RGB" else "LA")
    elif mode in _AS:
        image = image.convert(_AS[mode])
    elif mode.startswith("I;16"):
        return array_of(np.asarray(image).astype(np.uint16), what), known
    elif mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65_535:
            raise UsageError(f"{what}: its values of 32 bits are not in the range 0 to 65535 of 16 bits")
        return array_of(values.astype(np.uint16), what), known
    elif mode not in _PLAIN:
        raise UsageError(f"{what}: the mode {mode} of Pillow is not supported: use .convert('RGB')")
    return array_of(np.asarray(image), what), known


def to_pil(pixels: Pixels, metadata: Metadata = NO_METADATA) -> Image:
    """An image of Pillow with these pixels, and with the colour profile if it fits them.

    Raises:
        UsageError: Pillow has no mode for such pixels: colours with more than 8 bits.
    """
    from PIL import Image

    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if pixels.dtype != np.uint8 and channels > 1:
        raise UsageError(
            f"Pillow has no mode for {channels} channels of {pixels.dtype}: use the array, or make it 8 bits"
        )
    flat = pixels[:, :, 0] if pixels.ndim == 3 and channels == 1 else pixels
    image = Image.fromarray(flat)
    if metadata.icc and metadata.icc[16:20] == (b"RGB " if channels > 2 else b"GRAY"):
        image.info["icc_profile"] = metadata.icc
    return image


def _short(given: object) -> str:
    try:
        text = repr(given)
    except Exception:
        text = "a value"
    return text if len(text) <= 100 else f"{text[:100]}..."
