"""CLAHE in tiles: the histograms of the image's regions are counted part by part and added up.

Each part counts the levels of its pixels per region. The complete histograms give one table per region. Each part
gets the tables that it needs, and interpolates for each pixel between the tables of the nearest regions. All
arithmetic is that of OpenCV's CLAHE, in the same order and with the same float precision.
"""

from __future__ import annotations

import platform
from functools import lru_cache
from operator import add
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from imageloom.model import Box, Frame, Pixels, Plain, Step, Value
from imageloom.operators.measures import Measure
from imageloom.operators.registry import operator

LEVELS = 256
_BAND = 1 << 18
"""Number of pixels that are computed at the same time."""
_AS_WRITTEN = platform.machine().lower() in ("x86_64", "amd64")
"""On other processors, compilers may fuse OpenCV's multiplications and additions, which rounds differently."""


def in_regions(frame: Frame, clip: float, tiles: int) -> tuple[Step, ...]:
    """The steps that replace `clahe` for an image with this frame."""
    if why_whole(frame):
        return (Step("clahe", {"clip": clip, "tiles": tiles}),)
    params: dict[str, Value] = {"clip": clip, "tiles": tiles, "width": frame.width, "height": frame.height}
    return (Step("regions", params),)


def why_whole(frame: Frame, **_: object) -> str | None:
    if frame.dtype != "uint8":
        return "has tables of 65,536 levels per region for 16-bit images, too large to send to workers"
    if not _AS_WRITTEN:
        return "is rounded on this processor in a way that tiles cannot reproduce"
    return None


class Counts(Plain, frozen=True):
    """Histograms of the regions that a part has pixels of."""

    box: Box
    window: Box
    """The rectangle of these regions, in units of regions."""
    counts: bytes
    """Counts as int32, indexed by row of regions, column of regions, and level."""


class _Axis(NamedTuple):
    """One axis of the image, divided into regions. The last region may extend beyond the edge (mirrored)."""

    length: int
    region: int
    regions: int

    def mirrored(self, start: int, end: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The pixels from start to end, and those beyond the edge that mirror one of them; their regions."""
        pixels = np.concatenate([np.arange(start, end), mirrors := self._mirrors()])
        places = np.concatenate([np.arange(start, end), self.length + np.arange(len(mirrors))])
        chosen = (start <= pixels) & (pixels < end)
        return pixels[chosen], places[chosen] // self.region

    @lru_cache(maxsize=8)  # noqa: B019 - plain data of three numbers
    def _mirrors(self) -> NDArray[Any]:
        """The pixels that those beyond the edge mirror."""
        beyond = range(self.length, self.region * self.regions)
        mirrors = [cv2.borderInterpolate(p, self.length, cv2.BORDER_REFLECT_101) for p in beyond]
        return np.array(mirrors, int)

    def between(self, start: int, end: int) -> tuple[NDArray[Any], ...]:
        """For each pixel the regions before and after it, and the weights of both."""
        places = np.arange(start, end, dtype=np.float32) * (np.float32(1) / np.float32(self.region))
        places -= np.float32(0.5)
        before = np.floor(places)
        weight = places - before
        first = before.astype(int)
        last = self.regions - 1
        return np.maximum(first, 0), np.minimum(first + 1, last), np.float32(1) - weight, weight


def _axes(tiles: int, width: int, height: int) -> tuple[_Axis, _Axis]:
    """Where a side cannot be divided evenly both are filled up, even one that can."""
    even = width % tiles == 0 and height % tiles == 0
    x, y = (_Axis(n, n // tiles if even else n // tiles + 1, tiles) for n in (width, height))
    return x, y


def _luma(image: Pixels) -> Pixels:
    return image if image.ndim == 2 else cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb))[0]


def _window(box: Box, tiles: int, width: int, height: int) -> tuple[Any, Any, Any, Any, Box]:
    """The columns and rows that a part counts, the region of each, and the window of these regions."""
    x, y = _axes(tiles, width, height)
    columns, across = x.mirrored(box.x0, box.x1)
    rows, down = y.mirrored(box.y0, box.y1)
    window = Box(int(across.min()), int(down.min()), int(across.max()) + 1, int(down.max()) + 1)
    return columns, across, rows, down, window


def _is_sound(parts: list[Counts], box: Box, *, clip: float, tiles: int, width: int, height: int) -> bool:
    """Whether counts from a worker can be those of the part at the box: all its pixels, in its regions only."""
    (part,) = parts
    columns, _, rows, _, window = _window(box, tiles, width, height)
    counts = np.frombuffer(part.counts, np.int32)
    return bool(
        part.box == box
        and part.window == window
        and len(counts) == window.width * window.height * LEVELS
        and counts.min() >= 0
        and counts.sum(dtype=np.int64) == len(columns) * len(rows)
    )


def _measure(part: Pixels, box: Box, *, clip: float, tiles: int, width: int, height: int) -> list[Counts]:
    columns, across, rows, down, window = _window(box, tiles, width, height)
    luma = _luma(part)
    if len(columns) > box.width:
        luma = luma[:, columns - box.x0]
    cells = (across - window.x0) * LEVELS
    counts = np.zeros((window.height, window.width * LEVELS), np.int32)
    for row in range(window.height):
        band = luma[rows[down == row + window.y0] - box.y0]
        counts[row] = np.bincount((band + cells).ravel(), minlength=window.width * LEVELS)
    return [Counts(box, window, counts.tobytes())]


def _resolve(parts: list[Counts], *, clip: float, tiles: int, width: int, height: int) -> dict[Box, Step]:
    """For each part: a step with the tables of the regions around it."""
    x, y = _axes(tiles, width, height)
    counts = np.zeros((tiles, tiles, LEVELS), np.int64)
    for part in parts:
        window = part.window
        shape = (window.height, window.width, LEVELS)
        counts[window.slices(Box(0, 0, tiles, tiles))] += np.frombuffer(part.counts, np.int32).reshape(shape)
    tables = _tables(counts, clip, x.region * y.region)
    steps = {}
    for box in (part.box for part in parts):
        columns, rows = x.between(box.x0, box.x1), y.between(box.y0, box.y1)
        window = Box(int(columns[0][0]), int(rows[0][0]), int(columns[1][-1]) + 1, int(rows[1][-1]) + 1)
        chosen = tables[window.slices(Box(0, 0, tiles, tiles))]
        place = (width, height, box.x0, box.y0, window.x0, window.y0, window.x1)
        params: dict[str, Value] = {"tiles": tiles, "place": ",".join(map(str, place))}
        steps[box] = Step("equalized_regions", {**params, "tables": chosen.tobytes().hex()})
    return steps


def _tables(counts: NDArray[Any], clip: float, area: int) -> Pixels:
    """The table of each region: the new level of each level. Counts over the limit are spread over all levels."""
    limit = max(int(clip * area / LEVELS), 1)
    over = np.maximum(counts - limit, 0).sum(axis=2)
    limited = np.minimum(counts, limit) + (over // LEVELS)[:, :, None]
    for row, column in np.argwhere(over % LEVELS):
        rest = int(over[row, column] % LEVELS)
        step = max(LEVELS // rest, 1)
        limited[row, column, : step * rest : step] += 1
    scale = np.float32(LEVELS - 1) / np.float32(area)
    levels = np.cumsum(limited, axis=2).astype(np.float32) * scale
    tables: Pixels = np.rint(np.clip(levels, 0, LEVELS - 1)).astype(np.uint8)
    return tables


@operator(
    "global",
    dtypes=("uint8",),
    measured=Measure(
        when=lambda **_: True,
        measure=_measure,
        merge=add,
        resolve=_resolve,
        plain=list[Counts],
        placed=True,
        sound=_is_sound,
    ),
    examples=(),
    hidden=True,
)
def regions(image: Pixels, *, clip: float, tiles: int, width: int, height: int) -> Pixels:
    """`clahe` of an image of width x height pixels."""
    raise AssertionError("never called: the planner replaces it by one step per part")


@operator("point", dtypes=("uint8",), examples=(), hidden=True)
def equalized_regions(image: Pixels, *, tiles: int, place: str, tables: str) -> Pixels:
    """Equalize the luma of a part: look each pixel up in the tables of the nearest regions, and interpolate.

    Args:
        place: the image's width and height, the part's left and top, all in pixels, and the left, the top and the
            right of the rectangle of regions that have tables.
        tables: the tables of these regions.
    """
    width, height, left, top, first, upper, right = map(int, place.split(","))
    x, y = _axes(tiles, width, height)
    luma = _luma(image)
    columns = x.between(left, left + luma.shape[1])
    rows = y.between(top, top + luma.shape[0])
    found: Pixels = np.frombuffer(bytes.fromhex(tables), np.uint8).astype(np.float32)
    before, after = ((c - first) * LEVELS for c in columns[:2])
    row = (right - first) * LEVELS
    made = np.empty_like(luma)
    step = max(1, _BAND // luma.shape[1])
    for start in range(0, len(luma), step):
        band = slice(start, start + step)
        above, below, top_weight, bottom_weight = (part[band, None] for part in rows)
        levels = luma[band]
        lines = [
            found.take((line - upper) * row + before + levels) * columns[2]
            + found.take((line - upper) * row + after + levels) * columns[3]
            for line in (above, below)
        ]
        made[band] = np.rint(lines[0] * top_weight + lines[1] * bottom_weight)
    if image.ndim == 2:
        return made
    _, red, blue = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb))
    return cv2.cvtColor(cv2.merge((made, red, blue)), cv2.COLOR_YCrCb2RGB)
