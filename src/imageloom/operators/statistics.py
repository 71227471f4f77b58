"""Statistics: tones that are set by how often each level occurs in the whole image.

The histogram is measured part by part and added up; what follows from it is a step with fixed parameters that
treats each pixel by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import cv2
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from imageloom.model import Pixels, Step
from imageloom.operators.regions import in_regions, why_whole
from imageloom.operators.registry import Measure, operator
from imageloom.operators.values import in_range, top_of

Counts = NDArray[np.int64]
"""Histograms (channels, levels)."""


def histograms(image: Pixels) -> Counts:
    """How often each level occurs in each channel of an integer image: (channels, 256 or 65536)."""
    levels = int(top_of(image.dtype)) + 1
    planes: Sequence[Pixels] = [image] if image.ndim == 2 else cv2.split(image)
    return np.stack([np.bincount(plane.ravel(), minlength=levels) for plane in planes])


def _always(**_: object) -> bool:
    return True


def _equalizing(counts: Counts) -> Step:
    """The tables that spread each channel's levels by the share of values that are not above them."""
    tables = []
    for channel in counts:
        first = int(np.flatnonzero(channel)[0])
        above = channel.sum() - channel[first]
        rank = (np.cumsum(channel) - channel[first]).astype(np.float32)
        even = rank * (np.float32(255) / np.float32(above)) if above else np.full(256, first, np.float32)
        tables.append(in_range(even, np.uint8))
    return Step("tables", {"values": np.concatenate(tables).tobytes().hex()})


@operator(
    "global",
    dtypes=("uint8",),
    measured=Measure(when=_always, measure=histograms, merge=np.add, resolve=_equalizing),
    examples=("equalize",),
)
def equalize(image: Pixels) -> Pixels:
    """Spread the levels so that all occur about equally often, in each channel by itself.

    A gray image becomes what OpenCV's equalizeHist makes of it. In a coloured one each channel is done alone,
    as Pillow's ImageOps.equalize does, so hues may shift. Transparent pixels are counted too.
    """
    raise AssertionError("the planner resolves equalize to tables")


@operator("point", dtypes=("uint8",), examples=(), hidden=True)
def tables(image: Pixels, *, values: str) -> Pixels:
    """Look values up in a table of 256 bytes for each channel, one after the other in hexadecimal."""
    planes = np.frombuffer(bytes.fromhex(values), np.uint8).reshape(-1, 256)
    return cv2.LUT(image, np.ascontiguousarray(planes.T)[None])


def _stretching(counts: Counts, cutoff: float) -> Step:
    """Stretch from the darkest and the lightest levels that are left without `cutoff` percent at each end."""
    bounds = []
    for channel in counts:
        cut = int(channel.sum() * cutoff / 100)
        low = int(np.argmax(np.cumsum(channel) > cut))
        high = len(channel) - 1 - int(np.argmax(np.cumsum(channel[::-1]) > cut))
        bounds.append(f"{low}-{high}")
    return Step("stretch", {"bounds": ",".join(bounds)})


@operator(
    "global",
    dtypes=("uint8", "uint16"),
    measured=Measure(when=_always, measure=histograms, merge=np.add, resolve=_stretching),
    examples=("autocontrast", "autocontrast 1"),
)
def autocontrast(image: Pixels, *, cutoff: Annotated[float, Meta(ge=0, lt=50)] = 0.0) -> Pixels:
    """Stretch the levels so that the darkest becomes black and the lightest white, in each channel by itself.

    cutoff is how many percent of the values, at the dark and at the light end each, are left out of account
    and clipped. As Pillow's ImageOps.autocontrast; hues may shift. A channel of one level stays as it is.
    Transparent pixels are counted too.
    """
    raise AssertionError("the planner resolves autocontrast to a stretch")


@operator("point", dtypes=("uint8", "uint16"), examples=(), hidden=True)
def stretch(image: Pixels, *, bounds: str) -> Pixels:
    """Stretch each channel from its own bounds, LOW-HIGH for each with commas between, to the whole range."""
    top = top_of(image.dtype)
    ramp = np.arange(int(top) + 1, dtype=np.float64)
    planes: Sequence[Pixels] = [image] if image.ndim == 2 else cv2.split(image)
    stretched = []
    for plane, bound in zip(planes, bounds.split(","), strict=True):
        low, high = (int(level) for level in bound.split("-"))
        levels = (ramp - low) * (top / (high - low)) if high > low else ramp
        stretched.append(in_range(levels, image.dtype)[plane])
    return stretched[0] if image.ndim == 2 else np.dstack(stretched)


@operator(
    "global",
    dtypes=("uint8", "uint16"),
    whole=why_whole,
    tiled_as=in_regions,
    examples=("clahe", "clahe 3 tiles=16"),
)
def clahe(
    image: Pixels,
    *,
    clip: Annotated[float, Meta(gt=0, le=100)] = 2.0,
    tiles: Annotated[int, Meta(ge=1, le=64)] = 8,
) -> Pixels:
    """Contrast-limited adaptive histogram equalization, over tiles x tiles regions (OpenCV's CLAHE).

    K. Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV (1994). clip is how
    many times the mean a level may count. Of a coloured image the luma (BT.601) is equalized, the chroma
    stays.

    The regions divide the image's own width and height, and each has its own histogram.
    """
    equalizer = cv2.createCLAHE(clip, (tiles, tiles))
    if image.ndim == 2:
        return equalizer.apply(image)
    luma, red, blue = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb))
    return cv2.cvtColor(cv2.merge((equalizer.apply(luma), red, blue)), cv2.COLOR_YCrCb2RGB)
