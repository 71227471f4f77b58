"""Conversion of pixels to sRGB.

8 bits are converted by LittleCMS (Pillow's ImageCms). That has no 16 bits and no floats, so these are computed
here from the curves and the matrix of a profile; profiles made of tables need imagecodecs.

The intent is relative colorimetric without black-point compensation: each colour that sRGB has stays as it was
measured. Profiles of a matrix have their black at zero, so that compensation would change nothing.
"""

from __future__ import annotations

import importlib
from functools import lru_cache

import numpy as np

from imageloom.colours import icc as profiles
from imageloom.colours import littlecms
from imageloom.colours.bound import bound_profile
from imageloom.colours.build import built
from imageloom.errors import CorruptImage, MissingExtra
from imageloom.model import Pixels

_BAND = 1 << 20
"""Approximate number of pixels that are converted at once."""


def to_srgb(image: Pixels, colours: str) -> Pixels:
    """Convert gray (h, w) or RGB (h, w, 3) to sRGB. Gray remains gray, with the curve of sRGB.

    Args:
        colours: text of `colours`, not empty.

    Raises:
        CorruptImage: the profile cannot be used.
        MissingExtra: imagecodecs is missing, which 16 bits and floats need with a profile made of tables.
    """
    icc = bound_profile() if colours.startswith("profile") else built(colours, image.ndim == 2)
    profile = profiles.parse(icc)
    if profile is None:
        raise CorruptImage("its colour profile is damaged")
    rows = max(1, _BAND // image.shape[1])
    made: Pixels = np.empty_like(image, order="C")
    for y in range(0, len(image), rows):
        made[y : y + rows] = _converted(np.ascontiguousarray(image[y : y + rows]), profile)
    return made


def _converted(image: Pixels, profile: profiles.Profile) -> Pixels:
    try:
        if image.dtype == np.uint8:
            return littlecms.converted(image, profile.data)
        return _by_formula(image, profile) if profile.curves else _by_tables(image, profile)
    except ValueError:
        raise CorruptImage("its colour profile cannot be used") from None


_STEPS = 1 << 20
"""Steps of linear light in the table of 16 bits: at most 0.8 levels of the result, near black."""


@lru_cache(maxsize=1)
def _encoding_table() -> Pixels:
    light = np.arange(_STEPS + 1) / _STEPS
    return np.rint(profiles.encoded(light) * 65535).astype(np.uint16)


@lru_cache(maxsize=4)
def _decoding_tables(profile: profiles.Profile) -> tuple[Pixels, ...]:
    """The linear light of each level of 16 bits, for each curve."""
    levels = np.arange(65536) / 65535
    if profile.space == "GRAY":
        return (profiles.linear_srgb(profile, levels),)
    return tuple(curve(levels) for curve in profile.curves)


def _by_formula(image: Pixels, profile: profiles.Profile) -> Pixels:
    """16 bits and floats, by the curves and the matrix of a profile."""
    if image.dtype != np.uint16:
        light = profiles.linear_srgb(profile, image.astype(np.float64))
        return profiles.encoded(light).astype(np.float32)
    tables = _decoding_tables(profile)
    if profile.space == "GRAY":
        light = tables[0][image]
    else:
        channels = [image] * 3 if image.ndim == 2 else [image[..., i] for i in range(3)]
        light = profiles.mixed(
            [table[channel] for table, channel in zip(tables, channels, strict=True)],
            profiles.to_srgb_matrix(profile),
        )
        light = light[..., 1] if image.ndim == 2 else light
    return _encoding_table()[np.rint(light * _STEPS).astype(np.int32)]


def _by_tables(image: Pixels, profile: profiles.Profile) -> Pixels:
    """16 bits and floats, by the tables of a profile."""
    try:
        library = importlib.import_module("imagecodecs")
    except ImportError:
        raise MissingExtra("the conversion of 16 bits by a colour profile made of tables", "tiff") from None
    gray = image.ndim == 2
    if gray and profile.space == "RGB":
        image = np.stack([image] * 3, axis=-1)
    try:
        made: Pixels = library.cms_transform(
            image,
            profile.data,
            library.cms_profile("srgb"),
            colorspace="GRAY" if image.ndim == 2 else "RGB",
            outcolorspace="RGB",
            intent=littlecms.RELATIVE,
            flags=littlecms.NO_CACHE,
        )
    except library.CmsError as error:
        raise ValueError(str(error)) from None
    made = np.clip(made, 0, 1) if made.dtype == np.float32 else made
    return made[..., 1] if gray else made
