"""CMYK and CIELab pixels converted to sRGB while a file is decoded: no operator takes them."""

from __future__ import annotations

import importlib

import numpy as np

from imageloom.colours import icc as profiles
from imageloom.colours import littlecms
from imageloom.errors import CorruptImage
from imageloom.model import Pixels

_BAND = 1 << 18
"""Approximate number of pixels that are converted at once."""


def cmyk_to_srgb(image: Pixels, icc: bytes) -> Pixels:
    """Convert CMYK (h, w, 4) of 8 or 16 bits, where the maximum is full ink, to RGB of the same depth.

    Without a profile of CMYK, R is (1 - C)(1 - K), and G and B likewise.

    Raises:
        CorruptImage: the profile cannot be used.
    """
    profile = profiles.parse(icc)
    rows = max(1, _BAND // image.shape[1])
    made: Pixels = np.empty((*image.shape[:2], 3), image.dtype)
    for y in range(0, len(image), rows):
        band = np.ascontiguousarray(image[y : y + rows])
        if profile is None or profile.space != "CMYK":
            made[y : y + rows] = _by_formula(band)
        elif image.dtype == np.uint8:
            made[y : y + rows] = _by_profile(band, icc)
        else:
            made[y : y + rows] = _by_profile_of_16_bits(band, icc)
    return made


def _by_formula(image: Pixels) -> Pixels:
    top = int(np.iinfo(image.dtype).max)
    paper = top - image.astype(np.uint32)
    made: Pixels = ((paper[..., :3] * paper[..., 3:] + top // 2) // top).astype(image.dtype)
    return made


def _by_profile(image: Pixels, icc: bytes) -> Pixels:
    try:
        return littlecms.converted(image, icc)
    except ValueError:
        raise CorruptImage("its colour profile cannot be used") from None


def _by_profile_of_16_bits(image: Pixels, icc: bytes) -> Pixels:
    library = importlib.import_module("imagecodecs")  # only TIFF has such pixels, and needs it too
    try:
        made: Pixels = library.cms_transform(
            image,
            icc,
            library.cms_profile("srgb"),
            colorspace="CMYK",
            outcolorspace="RGB",
            intent=littlecms.RELATIVE,
            flags=littlecms.NO_CACHE,
        )
    except library.CmsError:
        raise CorruptImage("its colour profile cannot be used") from None
    return made


def lab_to_srgb(image: Pixels, is_signed: bool) -> Pixels:
    """Convert CIELab (h, w, 3) of 8 or 16 bits with the white D50 to RGB of the same depth.

    Args:
        is_signed: a* and b* are two's complements, as in CIELab of TIFF; otherwise they have an offset.
    """
    top = int(np.iinfo(image.dtype).max)
    middle = (top + 1) // 2
    rows = max(1, _BAND // image.shape[1])
    made: Pixels = np.empty_like(image)
    for y in range(0, len(image), rows):
        band = image[y : y + rows].astype(np.int64)
        a, b = ((band[..., i] + middle * is_signed) % (top + 1) - middle for i in (1, 2))
        lightness = band[..., 0].astype(np.float64) * (100 / top)
        light = profiles.srgb_of_lab(lightness, a / (middle / 128), b / (middle / 128))
        made[y : y + rows] = np.rint(profiles.encoded(light) * top)
    return made
