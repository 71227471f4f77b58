"""Hysteresis in tiles: weak pixels are kept if they are connected to a strong pixel.

Each part of the image labels its connected components. It reports the components that touch its border, and which
of them contain a strong pixel. Components of adjacent parts are joined (union-find): the result says for each
component at a border whether it is kept. Then each part is labelled again. A component is kept if it contains a
strong pixel, or if one of the given positions on the part's border belongs to it.
"""

from __future__ import annotations

from collections import defaultdict
from operator import add
from typing import Any

import cv2
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from imageloom.model import Box, Frame, Pixels, Plain, Step
from imageloom.operators.measures import Measure
from imageloom.operators.registry import operator

WEAK = 1
STRONG = 255

Labels = NDArray[Any]
"""Numbers of connected components, from 1; 0 for no component."""


class Border(Plain, frozen=True):
    """The connected components that touch the border of a part."""

    box: Box
    ring: bytes
    """Labels along the border as int32, renumbered from 1, 0 for no component: top, bottom, left, right."""
    strong: bytes
    """The labels in `ring` whose component contains a strong pixel, as int32."""


def _label(classes: Pixels) -> tuple[Labels, Labels]:
    """The labels (h, w) of the 8-connected components (0 for none), and the labels with a strong pixel."""
    count, labels = cv2.connectedComponents(classes, connectivity=8, ltype=cv2.CV_32S)
    strong = np.zeros(count, bool)
    strong[labels[classes == STRONG]] = True
    return labels, strong


def _ring(labels: Labels) -> Labels:
    return np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])


def _measure(classes: Pixels, box: Box) -> list[Border]:
    labels, strong = _label(classes)
    known, ring = np.unique(np.append(0, _ring(labels)), return_inverse=True)
    own = np.flatnonzero(strong[known])
    return [Border(box, ring[1:].astype(np.int32).tobytes(), own.astype(np.int32).tobytes())]


def _is_sound(borders: list[Border], box: Box) -> bool:
    """Whether there is exactly one border, of the part at the box, with labels as `_measure` makes them."""
    (border,) = borders
    ring, strong = np.frombuffer(border.ring, np.int32), np.frombuffer(border.strong, np.int32)
    count = int(ring.max())
    return bool(
        border.box == box
        and len(ring) == 2 * (box.width + box.height)
        and ring.min() >= 0
        and count <= len(ring)
        and (not len(strong) or (strong.min() >= 1 and strong.max() <= count))
        and len(strong) <= count
    )


def _resolve(borders: list[Border]) -> dict[Box, Step]:
    """For each part: the positions on its border of components that are kept because of another part."""
    rings: list[Labels] = [np.frombuffer(border.ring, np.int32) for border in borders]
    starts = np.cumsum([0, *(ring.max() for ring in rings)])  # each part's labels continue from its start
    strong = [np.frombuffer(b.strong, np.int32) + start for b, start in zip(borders, starts, strict=False)]
    rings = [np.where(ring > 0, ring + start, 0) for ring, start in zip(rings, starts, strict=False)]
    count = int(starts[-1]) + 1
    roots = _roots(count, _meetings([border.box for border in borders], rings, count))
    stays = np.zeros(len(roots), bool)
    stays[roots[np.concatenate(strong)]] = True
    steps: dict[Box, Step] = {}
    for border, ring, own in zip(borders, rings, strong, strict=True):
        labels, places = np.unique(ring, return_index=True)
        named = places[(labels > 0) & stays[roots[labels]] & ~np.isin(labels, own)]
        steps[border.box] = Step("connected", {"places": ",".join(map(str, named.tolist()))})
    return steps


def _meetings(boxes: list[Box], rings: list[Labels], count: int) -> Labels:
    """The pairs (n, 2) of labels below `count` whose pixels are neighbours in two adjacent parts."""
    width, height = max(box.x1 for box in boxes), max(box.y1 for box in boxes)
    lines: dict[tuple[str, int], Labels] = defaultdict(lambda: np.zeros(width, np.int64))
    columns: dict[tuple[str, int], Labels] = defaultdict(lambda: np.zeros(height, np.int64))
    for box, ring in zip(boxes, rings, strict=True):
        w, h = box.width, box.height
        top, bottom, left, right = np.split(ring, [w, 2 * w, 2 * w + h])
        lines["after", box.y0][box.x0 : box.x1] = top
        lines["before", box.y1][box.x0 : box.x1] = bottom
        columns["after", box.x0][box.y0 : box.y1] = left
        columns["before", box.x1][box.y0 : box.y1] = right
    pairs: list[Labels] = []
    for cuts in (lines, columns):
        for side, place in [key for key in cuts if key[0] == "after" and ("before", key[1]) in cuts]:
            before, after = cuts["before", place], cuts[side, place]
            for one, other in ((before, after), (before[1:], after[:-1]), (before[:-1], after[1:])):
                met = np.flatnonzero((one > 0) & (other > 0))
                pairs.append(one[met] * count + other[met])
    found = np.unique(np.concatenate(pairs)) if pairs else np.zeros(0, np.int64)
    return np.stack(np.divmod(found, count), 1)


def _roots(count: int, pairs: Labels) -> Labels:
    """For each of `count` labels: the smallest label that the pairs connect it with (union-find)."""
    parents = list(range(count))

    def root(label: int) -> int:
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

    for one, other in pairs.tolist():
        one, other = root(one), root(other)
        parents[max(one, other)] = min(one, other)
    return np.array([root(label) for label in range(count)])


@operator(
    "global",
    dtypes=("uint8",),
    measured=Measure(
        when=lambda: True,
        measure=_measure,
        merge=add,
        resolve=_resolve,
        plain=list[Border],
        placed=True,
        sound=_is_sound,
    ),
    examples=(),
    hidden=True,
)
def hysteresis(image: Pixels) -> Pixels:
    """White where a pixel is STRONG, or connected to a STRONG pixel through WEAK pixels; black elsewhere."""
    raise AssertionError("never called: the planner replaces it by one step per part")


@operator("point", dtypes=("uint8",), examples=(), hidden=True)
def connected(image: Pixels, *, places: str) -> Pixels:
    """White where a component contains a STRONG pixel or one of the given border positions; black elsewhere.

    Args:
        places: comma-separated indexes into the border: top, bottom, left, right, one after the other.
    """
    labels, stays = _label(image)
    if places:
        stays[_ring(labels)[[int(place) for place in places.split(",")]]] = True
    return np.where(stays, np.uint8(255), np.uint8(0)).take(labels)


def _without_classes(frame: Frame, **_: object) -> Frame:
    return replace(frame, channels=frame.channels - 1)


def _measure_classes(image: Pixels, box: Box) -> list[Border]:
    return _measure(np.ascontiguousarray(image if image.ndim == 2 else image[:, :, 0]), box)


def _resolve_colours(borders: list[Border]) -> dict[Box, Step]:
    return {box: Step("colours_connected", step.params) for box, step in _resolve(borders).items()}


@operator(
    "global",
    dtypes=("uint8",),
    frame=_without_classes,
    alpha="together",
    measured=Measure(
        when=lambda: True,
        measure=_measure_classes,
        merge=add,
        resolve=_resolve_colours,
        plain=list[Border],
        placed=True,
        sound=_is_sound,
    ),
    examples=(),
    hidden=True,
)
def edge_colours(image: Pixels) -> Pixels:
    """The colours where `hysteresis` of the first channel is white; black elsewhere. Alpha is not changed."""
    raise AssertionError("never called: the planner replaces it by one step per part")


@operator("point", dtypes=("uint8",), frame=_without_classes, alpha="together", examples=(), hidden=True)
def colours_connected(image: Pixels, *, places: str) -> Pixels:
    """The other channels where `connected` of the first channel is white; black elsewhere. Alpha is kept."""
    mask = connected(np.ascontiguousarray(image[:, :, 0]), places=places)
    made = np.ascontiguousarray(image[:, :, 1:])
    colours = made if made.shape[2] in (1, 3) else made[:, :, :-1]
    colours[mask == 0] = 0
    return made[:, :, 0] if made.shape[2] == 1 else made
