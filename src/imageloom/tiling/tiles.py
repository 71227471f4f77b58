"""Tiles: an image done part by part, with the same result, bit for bit, as if it had been done whole.

A pipeline falls into phases. Within one a tile goes through all steps by itself: from the box that it writes
each step, last to first, says which box it needs of the pixels before it. A step that must see every tile
first (a histogram, a hysteresis) ends a phase: the tiles are measured, the measures merged, and what they
resolve to begins the next one. What only a whole image can be done to is a phase of one tile.

    phases -> boxes -> tile -> run_tile -> measure_tile -> merge -> apply_measure -> the next phase
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from imageloom import operators
from imageloom.model import Box, Frame, Pixels, Plain, Step, Tile
from imageloom.operators import Measure
from imageloom.operators.registry import colour
from imageloom.recipes.pipeline import frame_of

ALIGNED = 32
"""Local steps read boxes at multiples of so many pixels: there OpenCV's vector code meets the pixels of a tile
in the order in which it meets those of the whole image, which rounds floats the same way."""


class Phase(Plain, frozen=True):
    """A run of steps that one pass over the tiles does."""

    steps: tuple[Step, ...]
    """Empty where the input is only measured."""
    frames: tuple[Frame, ...]
    """Before the first step, and after each one."""
    measured: Step | None = None
    """The global step that is to be measured on what this phase makes; it comes first in the next one."""
    whole: str | None = None
    """Why there is one tile alone, in words."""

    @property
    def frame(self) -> Frame:
        """Of what it makes."""
        return self.frames[-1]


def phases(steps: Sequence[Step], frame: Frame) -> tuple[Phase, ...]:
    """The phases of a pipeline for an image.

    Raises:
        OperatorRefused: a step does not take what comes to it.
    """
    made: list[Phase] = []
    now = Phase((), (frame,))
    for step in _expanded(steps, frame):
        measure, whole = _measure_of(step), _why_whole(step, now.frame)
        if measure and measure.placed and now.whole:  # its places are those of the tiles of the next phase
            made.append(now)
            now = Phase((), (now.frame,))
        if measure or (now.steps and (whole or now.whole or not _may_follow(now, step))):
            made.append(replace(now, measured=step if measure else None))
            now = Phase((), (now.frame,))
        after = operators.get(step.name).frame_after(step, now.frame)
        now = Phase((*now.steps, step), (*now.frames, after), whole=whole)
    return (*made, now)


def _expanded(steps: Sequence[Step], frame: Frame) -> Iterator[Step]:
    """The steps, checked by their own names, in the form that can be tiled where they have one."""
    for step in steps:
        operator = operators.get(step.name)
        after = operator.frame_after(step, frame)
        yield from operator.tiled_as(frame, **operator.filled(step)) if operator.tiled_as else (step,)
        frame = after


def _measure_of(step: Step) -> Measure | None:
    operator = operators.get(step.name)
    measured = operator.measured
    return measured if measured and measured.when(**operator.filled(step)) else None


def _why_whole(step: Step, frame: Frame) -> str | None:
    operator = operators.get(step.name)
    kind = operator.kind(step)
    if operator.whole and (reason := operator.whole(frame, **operator.filled(step))):
        return f"{step.name} {reason}"
    if kind == "geometric" and not operator.source:
        return f"{step.name} may read pixels from anywhere in the image"
    if kind == "global" and not operator.measured:
        return f"{step.name} may compute a pixel from the whole image"
    return None


def _may_follow(phase: Phase, step: Step) -> bool:
    """What resolves apart for each tile is done to that very tile, so that only point steps keep to it."""
    measure = _measure_of(phase.steps[0])
    return not (measure and measure.placed) or operators.get(step.name).kind(step) == "point"


def why_not(steps: Sequence[Step], frame: Frame) -> str | None:
    """Which step cannot be tiled and why, or None: the whole image that comes to it must fit the memory."""
    return next((phase.whole for phase in phases(steps, frame) if phase.whole), None)


def boxes(phase: Phase, size: int) -> tuple[Box, ...]:
    """The boxes of size x size pixels, or less at the right and the bottom, that the phase writes."""
    whole = Box.of(phase.frame)
    if phase.whole:
        return (whole,)
    return tuple(
        Box(x, y, x + size, y + size).within(whole)
        for y in range(0, whole.y1, size)
        for x in range(0, whole.x1, size)
    )


def tile(phase: Phase, write: Box) -> Tile:
    """The tile that writes a box, of a phase whose first step is measured_phases."""
    return Tile(write, _chain(phase, write)[0])


def run_tile(phase: Phase, pixels: Pixels, tile: Tile) -> Pixels:
    """The pixels of a tile's write box from those of its read box.

    Raises:
        OperatorFailed: an operator raised; names it.
    """
    if phase.whole:
        (step,) = phase.steps
        return operators.apply(step, pixels)
    chain = _chain(phase, tile.write)
    for step, frame, read, write in zip(phase.steps, phase.frames, chain, chain[1:], strict=False):
        pixels = operators.apply_on_part(step, pixels, write, frame)
        if operators.get(step.name).kind(step) == "local":
            pixels = pixels[write.slices(read)]
    return pixels


def _chain(phase: Phase, write: Box) -> list[Box]:
    """The boxes before the first step and after each one that end in the box to write."""
    if phase.whole:
        return [Box.of(frame) for frame in phase.frames]
    chain = [write]
    for step, frame in zip(reversed(phase.steps), reversed(phase.frames[:-1]), strict=True):
        operator = operators.get(step.name)
        box = operator.needs(step, chain[0], frame)
        if operator.kind(step) == "local":
            box = box.aligned(ALIGNED).within(Box.of(frame))
        chain.insert(0, box)
    return chain


def measure_tile(phase: Phase, pixels: Pixels, tile: Tile) -> Any:
    """The measure of what a tile writes, for `merge`."""
    assert phase.measured is not None
    params = operators.get(phase.measured.name).filled(phase.measured)
    return _measure(phase).of(np.ascontiguousarray(colour(pixels)), tile.write, params)


def _measure(phase: Phase) -> Measure:
    measure = _measure_of(phase.measured) if phase.measured else None
    assert measure is not None, "a phase that is measured"
    return measure


def merge(phase: Phase, measures: Sequence[Any]) -> Any:
    """The measures of all tiles as one; their order does not matter."""
    return reduce(_measure(phase).merge, measures)


def pack(phase: Phase, measure: Any) -> bytes:
    """A tile's measure as plain bytes, for the way between processes."""
    return msgspec.msgpack.encode(measure, enc_hook=_array_to_plain)


def unpack(phase: Phase, data: bytes) -> Any:
    """The measure that was packed."""
    return msgspec.msgpack.decode(data, type=_measure(phase).plain, dec_hook=_array_from_plain)


def is_measure(phase: Phase, data: bytes, box: Box) -> bool:
    """Whether packed bytes from elsewhere can be the measure of what a tile writes at a box."""
    assert phase.measured is not None
    measure = _measure(phase)
    try:
        found = unpack(phase, data)
        if measure.sound:
            return measure.sound(found, box, **operators.get(phase.measured.name).filled(phase.measured))
        one = measure.measure(colour(empty(replace(phase.frame, width=1, height=1))))
        is_alike = (found.dtype, found.shape) == (one.dtype, one.shape)
        return bool(is_alike and found.min() >= 0 and (found.sum(axis=-1) == box.width * box.height).all())
    except Exception:  # it is something else
        return False


def _array_to_plain(array: Any) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.str, array.shape, array.tobytes()


def _array_from_plain(kind: type, data: Any) -> Any:
    dtype, shape, raw = data
    return np.frombuffer(raw, dtype).reshape(shape)


def apply_measure(before: Phase, merged: Any, phase: Phase, boxes: Sequence[Box]) -> list[Phase]:
    """For each box that the phase writes the phase, its first step fixed by what the one before measured.

    Where the measure is `placed`, the boxes are those that were measured.
    """
    assert before.measured is not None
    params = operators.get(before.measured.name).filled(before.measured)
    steps = _measure(before).steps(merged, boxes, params)
    return [replace(phase, steps=(step, *phase.steps[1:])) for step in steps]


def run_tiled(image: Pixels, steps: Sequence[Step], size: int) -> Pixels:
    """A pipeline done to an image in memory, in tiles of size x size pixels: every engine's in a few lines."""
    before, merged = None, None
    for phase in phases(steps, frame_of(image)):
        writes = boxes(phase, size)
        measured_phases = apply_measure(before, merged, phase, writes) if before else [phase] * len(writes)
        made = empty(phase.frame)
        measures = []
        for part, write in zip(measured_phases, writes, strict=True):
            one = tile(part, write)
            pixels = run_tile(part, image[one.read.slices(Box.of(part.frames[0]))], one)
            made[write.slices(Box.of(phase.frame))] = pixels
            if phase.measured:
                measures.append(measure_tile(phase, pixels, one))
        image = made
        before, merged = (phase, merge(phase, measures)) if phase.measured else (None, None)
    return image


def empty(frame: Frame) -> Pixels:
    """An array for the pixels of a frame."""
    shape = (
        (frame.height, frame.width) if frame.channels == 1 else (frame.height, frame.width, frame.channels)
    )
    return np.empty(shape, frame.dtype)
