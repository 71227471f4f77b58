"""Where the interesting part of an image is: cells are measured part by part, and added up.

The image is divided into at most 32 x 32 cells. at=attention scores the mean colour of each cell, blurs the
scores, and takes the highest; at=entropy compares the histograms of the sides. Sums of integers do not depend on
the parts.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imageloom.model import Box, Pixels, Step
from imageloom.operators.geometry import crop_box, cropped, outside
from imageloom.operators.measures import Measure
from imageloom.operators.registry import operator

CELLS = 32
"""Maximum number of cells along each axis."""
LEVELS = 32
"""Number of levels of a cell's histogram per channel."""
_SLICES = 8
"""Number of slices in which entropy removes what is too much of an axis."""
_SKIN = np.array([0.78, 0.57, 0.44])
"""The direction of skin's colour in XYZ."""
_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
"""X, Y and Z (rows) of R, G and B in linear light (IEC 61966-2-1)."""
_WHITE = np.array([0.9505, 1.0, 1.089])
Sums = NDArray[np.int64]


def _cells(length: int, start: int, stop: int) -> NDArray[np.int64]:
    """The cell of each pixel from start to stop of one axis."""
    cells: NDArray[np.int64] = np.arange(start, stop, dtype=np.int64) * min(CELLS, length) // length
    return cells


def _in_bytes(image: Pixels) -> Pixels:
    if image.dtype == np.float32:
        image = np.rint(np.clip(np.nan_to_num(image), 0, 1) * np.float32(255)).astype(np.uint8)
    return image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)


def _measure(part: Pixels, box: Box, *, area: str, at: str, width: int, height: int) -> Sums:
    """For each cell the sums of its colours and the number of its pixels, or its histograms."""
    pixels = _in_bytes(part).reshape(box.height, box.width, -1)
    columns, rows = _cells(width, box.x0, box.x1), _cells(height, box.y0, box.y1)
    channels = pixels.shape[2]
    size = LEVELS * channels if at == "entropy" else channels + 1
    made = np.zeros((CELLS, CELLS, size), np.int64)
    starts = np.flatnonzero(np.diff(columns, prepend=-1))
    for row in np.unique(rows):
        band = pixels[rows == row]
        if at == "entropy":
            levels = (band // (256 // LEVELS)).astype(np.int64) + np.arange(channels) * LEVELS
            places = (columns * size)[None, :, None] + levels
            made[row] += np.bincount(places.ravel(), minlength=CELLS * size).reshape(CELLS, size)
            continue
        sums = np.add.reduceat(band.sum(axis=0, dtype=np.int64), starts, axis=0)
        made[row, columns[starts], :channels] += sums
        counts = np.diff(starts, append=len(columns)) * len(band)
        made[row, columns[starts], channels] += counts
    return made


def _is_sound(found: Any, box: Box, *, area: str, at: str, width: int, height: int) -> bool:
    """Whether sums from a worker can be those of a part at the box."""
    if found.dtype != np.int64 or found.ndim != 3 or found.shape[:2] != (CELLS, CELLS) or found.min() < 0:
        return False
    channels = found.shape[2] // LEVELS if at == "entropy" else found.shape[2] - 1
    counts = found.sum() // max(1, channels) if at == "entropy" else found[..., -1].sum()
    return bool(channels in (1, 3) and counts == box.width * box.height)


def _resolve(sums: Sums, *, area: str, at: str, width: int, height: int) -> Step:
    """The crop at the place that was found."""
    x0, y0, x1, y1 = crop_box(width, height, area)
    used = sums[: min(CELLS, height), : min(CELLS, width)]
    find = _by_entropy if at == "entropy" else _by_attention
    left, top = find(used, width, height, x1 - x0, y1 - y0)
    return Step("crop", {"area": f"{x1 - x0}x{y1 - y0}+{left}+{top}"})


def _by_attention(sums: Sums, width: int, height: int, across: int, down: int) -> tuple[int, int]:
    """The left and the top of the crop whose centre has the highest score."""
    means = sums[..., :-1] / np.maximum(sums[..., -1:], 1) / 255
    encoded = np.broadcast_to(means, (*means.shape[:2], 3))
    light = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    xyz = light @ _XYZ.T * 100
    luminance = np.pad(xyz[..., 1], 1, mode="edge")
    centre = luminance[1:-1, 1:-1]
    edges = (
        4 * centre - luminance[:-2, 1:-1] - luminance[2:, 1:-1] - luminance[1:-1, :-2] - luminance[1:-1, 2:]
    )
    length = np.linalg.norm(xyz, axis=2, keepdims=True)
    skin = 100 - 100 * np.linalg.norm(xyz / np.maximum(length, 1e-9) - _SKIN, axis=2)
    scores = 5 * np.abs(edges) + np.where(centre > 5, skin + _green_red(xyz), 0)
    scale_x, scale_y = sums.shape[1] / width, sums.shape[0] / height
    sigma = max(1.0, float(np.hypot(across * scale_x, down * scale_y)) / 10)
    blurred = cv2.GaussianBlur(scores, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    row, column = np.unravel_index(int(np.argmax(np.round(blurred, 6))), blurred.shape)
    left = int((column + 0.5) / scale_x) - across // 2
    top = int((row + 0.5) / scale_y) - down // 2
    return min(max(left, 0), width - across), min(max(top, 0), height - down)


def _green_red(xyz: NDArray[np.float64]) -> NDArray[np.float64]:
    """The axis a* of CIELAB, from green to red."""
    share = xyz / 100 / _WHITE
    roots = np.where(share > (6 / 29) ** 3, np.cbrt(share), share / (3 * (6 / 29) ** 2) + 4 / 29)
    found: NDArray[np.float64] = 500 * (roots[..., 0] - roots[..., 1])
    return found


def _by_entropy(counts: Sums, width: int, height: int, across: int, down: int) -> tuple[int, int]:
    """The left and the top of what remains when the side with less entropy is cut off, slice by slice."""
    most = max(-(-(width - across) // _SLICES), -(-(height - down) // _SLICES), 1)
    x0, y0, x1, y1 = 0, 0, width, height
    while x1 - x0 > across or y1 - y0 > down:
        cut = min(x1 - x0 - across, most)
        if cut > 0:
            first = _entropy(counts, width, height, (x0, y0, x0 + cut, y1))
            if first < _entropy(counts, width, height, (x1 - cut, y0, x1, y1)):
                x0 += cut
            else:
                x1 -= cut
        cut = min(y1 - y0 - down, most)
        if cut > 0:
            first = _entropy(counts, width, height, (x0, y0, x1, y0 + cut))
            if first < _entropy(counts, width, height, (x0, y1 - cut, x1, y1)):
                y0 += cut
            else:
                y1 -= cut
    return x0, y0


def _entropy(counts: Sums, width: int, height: int, box: tuple[int, int, int, int]) -> float:
    """The entropy of the values in a box, in bits; cells at its edges count by the share that lies in it."""
    shares = []
    for start, stop, length, cells in (
        (box[0], box[2], width, counts.shape[1]),
        (box[1], box[3], height, counts.shape[0]),
    ):
        edges = -(-np.arange(cells + 1) * length // cells)
        inside = np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start)
        shares.append(np.maximum(inside, 0) / (edges[1:] - edges[:-1]))
    levels = np.einsum("yxl,x,y->l", counts.astype(np.float64), shares[0], shares[1])
    odds = levels[levels > 0] / levels.sum()
    return round(float(-(odds * np.log2(odds)).sum()), 9)


@operator(
    "global",
    frame=cropped,
    refuse=outside,
    measured=Measure(
        when=lambda **_: True,
        measure=_measure,
        merge=np.add,
        resolve=_resolve,
        positioned=True,
        sound=_is_sound,
    ),
    examples=(),
    hidden=True,
)
def crop_at(image: Pixels, *, area: str, at: str, width: int, height: int) -> Pixels:
    """`crop` of an image of width x height pixels at a place to be found."""
    raise AssertionError("the planner resolves crop_at to a crop")
