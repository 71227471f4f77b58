"""Tiles: processes an image part by part. The result is identical to that of the whole image, bit for bit.

A pipeline is split into phases. Within a phase, each tile passes through all steps independently. The box that it
reads is computed from the box that it writes: from the last step to the first, each step adds the pixels that it
needs. A step that must see all tiles first (a histogram, a hysteresis) ends a phase: the tiles are measured, the
measures are merged, and the next phase begins with the step and the measured parameters. A step that needs the
whole image is a phase of one tile.

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
from imageloom.operators.channels import colour
from imageloom.recipes.pipeline import frame_of

ALIGNED = 32
"""Local steps read boxes that are aligned to this number of pixels. So OpenCV's vector code processes the pixels
of a tile in the same order as those of the whole image, and floats are rounded in the same way."""


class Phase(Plain, frozen=True):
    """Consecutive steps that one pass over the tiles processes."""

    steps: tuple[Step, ...]
    """Empty if the input is only measured."""
    frames: tuple[Frame, ...]
    """The frame before the first step, and after each step."""
    measured: Step | None = None
    """The global step that is measured on the output of this phase. It is the first step of the next phase."""
    whole: str | None = None
    """Why there is only one tile, as text; empty if there are several."""

    @property
    def frame(self) -> Frame:
        """The frame of its output."""
        return self.frames[-1]


def phases(steps: Sequence[Step], frame: Frame) -> tuple[Phase, ...]:
    """The phases of a pipeline for an image.

    Raises:
        OperatorRefused: a step does not accept its input.
    """
    made: list[Phase] = []
    now = Phase((), (frame,))
    for step in _expanded(steps, frame):
        measure, whole = _measure_of(step), _why_whole(step, now.frame)
        if measure and measure.placed and now.whole:  # its positions are those of the tiles of the next phase
            made.append(now)
            now = Phase((), (now.frame,))
        if measure or (now.steps and (whole or now.whole or not _may_follow(now, step))):
            made.append(replace(now, measured=step if measure else None))
            now = Phase((), (now.frame,))
        after = operators.get(step.name).frame_after(step, now.frame)
        now = Phase((*now.steps, step), (*now.frames, after), whole=whole)
    return (*made, now)


def _expanded(steps: Sequence[Step], frame: Frame) -> Iterator[Step]:
    """The checked steps, each in its tileable form if it has one."""
    for step in steps:
        operator = operators.get(step.name)
        after = operator.frame_after(step, frame)
        tiled = operator.tiled_as(frame.without_extra, **operator.filled(step)) if operator.tiled_as else ()
        yield from tiled or (step,)
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
    """Whether a step may follow in the same phase. After a step with separate parameters for each tile, only point
    steps may follow."""
    measure = _measure_of(phase.steps[0])
    return not (measure and measure.placed) or operators.get(step.name).kind(step) == "point"


def why_not(steps: Sequence[Step], frame: Frame) -> str | None:
    """Which step cannot be tiled and why, as text; or None. The input of such a step must fit into memory as a
    whole."""
    return next((phase.whole for phase in phases(steps, frame) if phase.whole), None)


def boxes(phase: Phase, size: int) -> tuple[Box, ...]:
    """The boxes that the phase writes: size x size pixels, or less at the right and bottom edges."""
    whole = Box.of(phase.frame)
    if phase.whole:
        return (whole,)
    return tuple(
        Box(x, y, x + size, y + size).within(whole)
        for y in range(0, whole.y1, size)
        for x in range(0, whole.x1, size)
    )


def tile(phase: Phase, write: Box) -> Tile:
    """The tile that writes a box. The measured parameters of the first step must be known."""
    return Tile(write, _chain(phase, write)[0])


def run_tile(phase: Phase, pixels: Pixels, tile: Tile) -> Pixels:
    """Compute the pixels of a tile's write box from those of its read box.

    Raises:
        OperatorFailed: an operator raised. The message has its name.
    """
    if phase.whole:
        (step,) = phase.steps
        return operators.apply(step, pixels, phase.frame.extra)
    chain = _chain(phase, tile.write)
    for step, frame, read, write in zip(phase.steps, phase.frames, chain, chain[1:], strict=False):
        pixels = operators.apply_on_part(step, pixels, write, frame)
        if operators.get(step.name).kind(step) == "local":
            pixels = pixels[write.slices(read)]
    return pixels


def _chain(phase: Phase, write: Box) -> list[Box]:
    """The boxes before the first step and after each step. The last one is the box to write."""
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
    """Measure the pixels that a tile writes, for `merge`."""
    assert phase.measured is not None
    params = operators.get(phase.measured.name).filled(phase.measured)
    return _measure(phase).of(np.ascontiguousarray(colour(pixels, phase.frame.extra)), tile.write, params)


def _measure(phase: Phase) -> Measure:
    measure = _measure_of(phase.measured) if phase.measured else None
    assert measure is not None, "a phase that is measured"
    return measure


def merge(phase: Phase, measures: Sequence[Any]) -> Any:
    """Merge the measures of all tiles. Their order does not matter."""
    return reduce(_measure(phase).merge, measures)


def pack(phase: Phase, measure: Any) -> bytes:
    """A tile's measure as bytes, to send it to another process."""
    return msgspec.msgpack.encode(measure, enc_hook=_array_to_plain)


def unpack(phase: Phase, data: bytes) -> Any:
    """The measure from its bytes."""
    return msgspec.msgpack.decode(data, type=_measure(phase).plain, dec_hook=_array_from_plain)


def is_measure(phase: Phase, data: bytes, box: Box) -> bool:
    """Whether bytes from another process are a valid measure of a tile that writes this box."""
    assert phase.measured is not None
    measure = _measure(phase)
    try:
        found = unpack(phase, data)
        if measure.sound:
            return measure.sound(found, box, **operators.get(phase.measured.name).filled(phase.measured))
        one = measure.measure(colour(empty(replace(phase.frame.without_extra, width=1, height=1))))
        is_alike = (found.dtype, found.shape) == (one.dtype, one.shape)
        return bool(is_alike and found.min() >= 0 and (found.sum(axis=-1) == box.width * box.height).all())
    except Exception:  # it is not a measure
        return False


def _array_to_plain(array: Any) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.str, array.shape, array.tobytes()


def _array_from_plain(kind: type, data: Any) -> Any:
    dtype, shape, raw = data
    return np.frombuffer(raw, dtype).reshape(shape)


def apply_measure(before: Phase, merged: Any, phase: Phase, boxes: Sequence[Box]) -> list[Phase]:
    """The phase for each box, with the measured parameters of its first step. The phase before has measured them.

    If the measure is `placed`, the boxes must be those that were measured.
    """
    assert before.measured is not None
    params = operators.get(before.measured.name).filled(before.measured)
    steps = _measure(before).steps(merged, boxes, params)
    return [replace(phase, steps=(step, *phase.steps[1:])) for step in steps]


def run_tiled(image: Pixels, steps: Sequence[Step], size: int) -> Pixels:
    """Run a pipeline on an image in memory, in tiles of size x size pixels. A short reference of the tiled
    processing."""
    known = operators.length_before(steps)
    if not operators.is_known(steps[:known]):  # the rest depends on the size that its last step leaves
        image = operators.apply(steps[known - 1], run_tiled(image, steps[: known - 1], size))
        return run_tiled(image, steps[known:], size)
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
