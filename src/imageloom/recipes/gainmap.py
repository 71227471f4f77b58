"""The gain map of an Ultra HDR photo: what a pipeline does to the photo's geometry is done to the map.

A gain map says by how much each place of the photo is brighter in its HDR rendition (ISO 21496-1; Ultra HDR 1.1).
It stays true where pixels are only moved, and where the colours are converted, if it has one channel. Any other
step changes the photo but not the map: the HDR rendition would not be that step's result, so the map is dropped.

The map keeps its pixels if the photo is resized, until it would be larger than the photo: readers scale it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from imageloom import codecs, operators
from imageloom.codecs import segments
from imageloom.codecs.pictures import MPF
from imageloom.errors import ItemError
from imageloom.model import Encoding, Frame, Pixels, Step
from imageloom.operators.geometry import crop_box, is_fixed

_QUALITY = 95
_CLOSE = 1e-6
_FINER = 2
"""A mirrored map that is smaller than its photo has so many times as many pixels per side: libultrahdr takes
the values of a map at the corners of its pixels, other readers at the centres, so that the size of a pixel is the
error of one of them."""
_TURNS = {
    0: np.eye(3),
    90: np.array([[0.0, 1, 0], [-1, 0, 1], [0, 0, 1]]),
    180: np.array([[-1.0, 0, 1], [0, -1, 1], [0, 0, 1]]),
    270: np.array([[0.0, -1, 1], [1, 0, 0], [0, 0, 1]]),
}
"""From positions after a turn to positions before it, as parts of the width and the height."""
Matrix = NDArray[np.float64]


def processed(data: bytes, steps: Sequence[Step], original: Frame, decoded: Frame) -> bytes:
    """The map for the photo after the steps; empty if it would not be true.

    Args:
        data: the JPEG of the map.
        original: the frame of the photo in its file.
        decoded: the frame before the first step.
    """
    frame = operators.frames(steps, decoded)[-1]
    place = _place(steps, decoded)
    if place is None or frame.channels != original.channels:
        return b""
    try:
        header = codecs.header_of(data)
        fits = header.frame.width <= frame.width and header.frame.height <= frame.height
        if fits and (place == np.eye(3)).all():
            return data
        pixels = codecs.decode(data, header)
        converted = any(step.name == "convert_from" for step in steps)
        if header.stored or (converted and pixels.ndim == 3):
            return b""
        moved = _moved(pixels, place, frame)
        made = codecs.get("jpeg").encode(moved, Encoding(_QUALITY, subsampling="444"))
        return _with_segments(made, data)
    except ItemError:
        return b""


def _place(steps: Sequence[Step], decoded: Frame) -> Matrix | None:
    """From positions in the output to positions in the photo, as parts of their widths and heights; None if a step
    does more than to move pixels."""
    place: Matrix = np.eye(3)
    for step, (before, _) in zip(steps, pairwise(operators.frames(steps, decoded)), strict=True):
        if step.name in ("resize", "convert_from"):
            continue
        if step.name == "crop" and is_fixed(step):
            x0, y0, x1, y1 = crop_box(before.width, before.height, str(step.params["area"]))
            size = (before.width, before.height)
            change = np.array(
                [
                    [(x1 - x0) / size[0], 0, x0 / size[0]],
                    [0, (y1 - y0) / size[1], y0 / size[1]],
                    [0, 0, 1],
                ]
            )
        elif step.name == "flip":
            change = np.diag([-1.0, 1, 1])
            change[0, 2] = 1
            if step.params.get("axis") == "vertical":
                change = np.array([[1.0, 0, 0], [0, -1, 1], [0, 0, 1]])
        elif step.name == "rotate":
            change = _TURNS[int(str(step.params["degrees"]))]
        else:
            return None
        place = place @ change
    return place


def _moved(pixels: Pixels, place: Matrix, frame: Frame) -> Pixels:
    """The pixels of the map for an output: those of its part of the photo, at most as many as in `frame`."""
    height, width = pixels.shape[:2]
    absolute = np.diag([width, height, 1]) @ place
    spans = [float(np.hypot(absolute[0, i], absolute[1, i])) for i in (0, 1)]
    is_small = _FINER * spans[0] <= frame.width and _FINER * spans[1] <= frame.height
    finer = _FINER if is_small and (place[:2, :2] < 0).any() else 1
    size = (max(1, round(finer * spans[0])), max(1, round(finer * spans[1])))
    absolute = absolute @ np.diag([1 / size[0], 1 / size[1], 1])
    absolute[:2, 2] += absolute[:2, :2] @ (0.5, 0.5) - 0.5  # from the centres of pixels
    rounded = np.rint(absolute)
    is_exact = bool(np.abs(absolute - rounded).max() < _CLOSE)
    made: Pixels = cv2.warpAffine(
        pixels,
        (rounded if is_exact else absolute)[:2],
        size,
        flags=(cv2.INTER_NEAREST if is_exact else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    most = (min(size[0], frame.width), min(size[1], frame.height))
    return made if most == size else cv2.resize(made, most, interpolation=cv2.INTER_AREA)


def _with_segments(made: bytes, data: bytes) -> bytes:
    """The new map with the segments that say how the old one is applied: XMP and ISO 21496-1, and its profile."""
    kept = b"".join(
        data[start - 4 : end]
        for marker, start, end in segments.walk(data)
        if marker in (segments.APP1, segments.APP2) and not data[start:end].startswith((b"Exif\0\0", MPF))
    )
    at = 4 + int.from_bytes(made[4:6])
    return made[:at] + kept + made[at:]
