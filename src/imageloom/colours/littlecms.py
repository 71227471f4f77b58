"""Pixels of 8 bits converted to sRGB by LittleCMS, through Pillow's ImageCms.

The result of a pixel does not depend on the others: cached results of the library are off.
"""

from __future__ import annotations

import importlib
import io
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np

from imageloom.colours import icc as profiles
from imageloom.model import Pixels

RELATIVE = 1
"""Relative colorimetric, the rendering intent."""
NO_CACHE, _HIGH_RESOLUTION = 0x0040, 0x0400


def converted(image: Pixels, icc: bytes) -> Pixels:
    """8 bits: gray (h, w), RGB (h, w, 3) or CMYK (h, w, 4) to sRGB.

    Raises:
        ValueError: the profile cannot be used.
    """
    if image.ndim == 2:
        table = _gray_table(icc)
        return table[image]
    mode = "CMYK" if image.shape[2] == 4 else "RGB"
    return _applied(image, mode, icc)


@lru_cache(maxsize=16)
def _gray_table(icc: bytes) -> Pixels:
    levels = np.arange(256, dtype=np.uint8)[None]
    profile = profiles.parse(icc)
    if profile is not None and profile.curves:  # LittleCMS rounds the curve of gray coarsely
        light = profiles.linear_srgb(profile, np.arange(256) / 255)
        return np.rint(profiles.encoded(light) * 255).astype(np.uint8)
    if profile is not None and profile.space == "RGB":
        return _applied(np.stack([levels] * 3, axis=-1), "RGB", icc)[0, :, 1]
    return _applied(levels, "L", icc)[0, :, 1]


def _applied(image: Pixels, mode: str, icc: bytes) -> Pixels:
    cms, pictures = _library(), importlib.import_module("PIL.Image")
    picture = pictures.frombytes(mode, image.shape[1::-1], np.ascontiguousarray(image))
    try:
        made: Pixels = np.asarray(cms.applyTransform(picture, _transform(icc, mode)))
    except cms.PyCMSError as error:
        raise ValueError(str(error)) from None
    return made


@lru_cache(maxsize=1)
def _library() -> ModuleType:
    return importlib.import_module("PIL.ImageCms")


@lru_cache(maxsize=16)
def _transform(icc: bytes, mode: str) -> Any:
    cms = _library()
    try:
        profile = cms.ImageCmsProfile(io.BytesIO(icc))
        srgb = cms.createProfile("sRGB")
        return cms.buildTransform(
            profile,
            srgb,
            mode,
            "RGB",
            renderingIntent=RELATIVE,
            flags=cms.Flags(NO_CACHE | _HIGH_RESOLUTION),
        )
    except (cms.PyCMSError, OSError) as error:
        raise ValueError(str(error)) from None
