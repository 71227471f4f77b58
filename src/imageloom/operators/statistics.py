"""Statistics: tone operators that depend on the histogram of the whole image.

The histogram is counted part by part and added up. It gives a point step with fixed parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import cv2
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from imageloom.model import Pixels, Step
from imageloom.operators.measures import Measure
from imageloom.operators.regions import in_regions, why_whole
from imageloom.operators.registry import operator
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
    """A step with the tables that equalize each channel: by the share of values at or below each level."""
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
    """Equalize the histogram of each channel: all levels then occur about equally often.

    Gray images: the same as OpenCV's equalizeHist. Colour images: each channel separately, like Pillow's
    ImageOps.equalize, so hues may change. Transparent pixels are counted too.
    """
    raise AssertionError("the planner resolves equalize to tables")


@operator("point", dtypes=("uint8",), examples=(), hidden=True)
def tables(image: Pixels, *, values: str) -> Pixels:
    """Look values up in one table of 256 bytes per channel; the tables are concatenated, in hexadecimal."""
    planes = np.frombuffer(bytes.fromhex(values), np.uint8).reshape(-1, 256)
    return cv2.LUT(image, np.ascontiguousarray(planes.T)[None])


def _stretching(counts: Counts, cutoff: float) -> Step:
    """A step that stretches each channel from its darkest to its lightest level, without `cutoff` percent each."""
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
    """Stretch the levels of each channel: its darkest value becomes black and its lightest white.

    cutoff is the percentage of values that is ignored, and clipped, at the dark end and at the light end. Like
    Pillow's ImageOps.autocontrast; hues may change. A channel with only one level is not changed. Transparent
    pixels are counted too.
    """
    raise AssertionError("the planner resolves autocontrast to a stretch")


@operator("point", dtypes=("uint8", "uint16"), examples=(), hidden=True)
def stretch(image: Pixels, *, bounds: str) -> Pixels:
    """Stretch each channel from its bounds to the whole range; bounds are LOW-HIGH per channel, with commas."""
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
    """Contrast-limited adaptive histogram equalization (CLAHE) in tiles x tiles regions of the image.

    Each region has its own histogram. clip limits the count of a level to this multiple of the mean count. In
    colour images the luma (BT.601) is equalized and the chroma is not changed. The same as OpenCV's CLAHE
    (K. Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV, 1994).
    """
    equalizer = cv2.createCLAHE(clip, (tiles, tiles))
    if image.ndim == 2:
        return equalizer.apply(image)
    luma, red, blue = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb))
    return cv2.cvtColor(cv2.merge((equalizer.apply(luma), red, blue)), cv2.COLOR_YCrCb2RGB)
