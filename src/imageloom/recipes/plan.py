"""Plans: what is to be done for one item, from its header and the recipe alone.

The plan is a pure function, so every engine and every worker comes to the same one: which steps, which hints
for the codec, which encoder. How an item is run (its batch, its share of memory) depends on the limits of the
run and never changes a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import msgspec
from msgspec.structs import replace

from imageloom import codecs, operators
from imageloom.errors import LimitExceeded, UnsupportedImage
from imageloom.model import Decode, Format, Frame, Header, Job, Limits, Plain, Recipe, Step
from imageloom.recipes.pipeline import to_text
from imageloom.recipes.rewrite import rewrite

MEANING = 2
"""What a recipe means to this version: to be raised when the same recipe yields other bytes."""

BATCH_PIXELS = 4_000_000
"""Decoded pixels of a batch: 30 to 60 ms of work on one core."""
BATCH_ITEMS = 64

UPRIGHT: dict[int, tuple[Step, ...]] = {
    1: (),
    2: (Step("flip"),),
    3: (Step("rotate", {"degrees": 180}),),
    4: (Step("flip", {"axis": "vertical"}),),
    5: (Step("rotate", {"degrees": 90}), Step("flip")),
    6: (Step("rotate", {"degrees": 90}),),
    7: (Step("rotate", {"degrees": 270}), Step("flip")),
    8: (Step("rotate", {"degrees": 270}),),
}
"""The steps that turn stored pixels upright, by EXIF's Orientation (Exif 2.32, tag 274)."""


class OutputPlan(Plain, frozen=True):
    """What is done for one output."""

    steps: tuple[Step, ...]
    frame: Frame
    """Of the pixels to encode."""
    format: Format
    quality: int


class Plan(Plain, frozen=True):
    """What is done for one item."""

    luma: bool
    """Decode the luma alone."""
    scale: int
    """Decode at one part in 1, 2, 4 or 8 of the width and the height."""
    decoded: Frame
    outputs: tuple[OutputPlan, ...]
    bytes: int
    """The most memory that the item needs at one time, its input's and output's bytes included."""


def meaning(recipe: Recipe, template: str) -> str:
    """What a recipe means, as text: equal for those that yield equal bytes under equal names."""
    contents = operators.contents(recipe.operators)
    return msgspec.json.encode((MEANING, recipe, contents, template), order="deterministic").decode()


UNSUSPECTED = 64 << 20
"""Decoded bytes that any file may unfold to, however small it is."""


def check_limits(header: Header, limits: Limits, size: int) -> None:
    """Refuse by the header what is over a limit.

    Args:
        size: of the file, in bytes.

    Raises:
        LimitExceeded: names the limit, its value and the flag.
    """
    if header.frame.pixels > limits.max_pixels:
        raise LimitExceeded(
            f"{header.frame.width}x{header.frame.height} is {header.frame.pixels:,} pixels, over the limit "
            f"of {limits.max_pixels:,} (--max-pixels)"
        )
    unfolded = header.frame.bytes + header.buffered
    if unfolded > max(UNSUSPECTED, size * limits.max_expansion):
        raise LimitExceeded(
            f"{size:,} bytes would unfold to {unfolded:,}, over the limit of {limits.max_expansion:,} times "
            "(--max-expansion)"
        )


@lru_cache(maxsize=1024)
def _plan(header: Header, recipe: bytes) -> Plan:
    return _make_plan(header, msgspec.msgpack.decode(recipe, type=Recipe))


operators.reloaded.append(lambda module: _plan.cache_clear())
_encode = msgspec.msgpack.Encoder().encode


def make_plan(header: Header, recipe: Recipe) -> Plan:
    """The plan for an image with that header.

    Raises:
        OperatorRefused: a step does not take what comes to it.
        UnsupportedImage: the output's format cannot hold the pixels.
    """
    return _plan(header, _encode(recipe))


def _make_plan(header: Header, recipe: Recipe) -> Plan:
    upright = UPRIGHT[header.orientation]
    rewritten = [rewrite((*upright, *output.steps), header.frame) for output in recipe.outputs]
    luma = (
        header.scalable
        and header.frame.channels == 3
        and recipe.decode != "exact"
        and all(_wants_luma(steps) for steps in rewritten)
    )
    scale = 1
    if header.scalable and recipe.decode != "exact":
        scale = min(_scale(steps, header.frame, recipe.decode) for steps in rewritten)
    decoded = replace(
        header.frame,
        width=-(-header.frame.width // scale),
        height=-(-header.frame.height // scale),
        channels=1 if luma else header.frame.channels,
    )
    outputs = tuple(
        _plan_output(steps, decoded, codecs.written_as(output.format, header.format), output.quality)
        for steps, output in zip(rewritten, recipe.outputs, strict=True)
    )
    return Plan(luma, scale, decoded, outputs, _peak(decoded, outputs) + header.buffered)


def _plan_output(steps: Sequence[Step], decoded: Frame, format: Format, quality: int | None) -> OutputPlan:
    steps = rewrite(steps, decoded)
    frame = operators.frames(steps, decoded)[-1]
    codec = codecs.get(format)
    reason = codec.cannot_hold(frame)
    if reason:
        raise UnsupportedImage(reason)
    return OutputPlan(tuple(steps), frame, format, quality if quality is not None else codec.quality)


def _wants_luma(steps: Sequence[Step]) -> bool:
    """A grayscale that comes first, or after resizes only: both are sums with fixed weights and swap but for
    rounding."""
    for step in steps:
        if step.name == "grayscale":
            return True
        if step.name not in ("resize", "crop", "flip", "rotate"):
            return False
    return False


def _scale(steps: Sequence[Step], frame: Frame, decode: Decode) -> int:
    """How far the codec may shrink: the resize that comes first, or after turns and a grayscale, decides."""
    for step in steps:
        after = operators.get(step.name).frame_after(step, frame)
        if step.name == "resize":
            if step.params.get("kernel") == "nearest":
                return 1
            room = 2 if decode == "safe" else 1
            for scale in (8, 4, 2):
                if (
                    -(-frame.width // scale) >= room * after.width
                    and -(-frame.height // scale) >= room * after.height
                ):
                    return scale
            return 1
        if step.name not in ("flip", "rotate", "grayscale"):
            return 1
        frame = after
    return 1


def _peak(decoded: Frame, outputs: Sequence[OutputPlan]) -> int:
    """The decoded pixels and the outputs' stay to the end; beside them works one step or one encoder."""
    kept = decoded.bytes + sum(output.frame.bytes for output in outputs)
    most = 0
    for output in outputs:
        frames = pairwise(operators.frames(output.steps, decoded))
        steps = (_step_bytes(step, *frame) for step, frame in zip(output.steps, frames, strict=True))
        encoding = ENCODE_COPIES * output.frame.bytes
        encoding += output.frame.pixels * codecs.get(output.format).encoder_bytes
        most = max(most, encoding, *steps)
    return kept + most


ENCODE_COPIES = 5
"""What an encoder holds at the most, in sizes of its pixels: them in its own order, the bytes in a buffer
that doubles as it grows, and the bytes once more."""


def _step_bytes(step: Step, before: Frame, after: Frame) -> int:
    """What a step reads, what it makes and one copy; floats of both, or a measure's or gradients' beside."""
    operator = operators.get(step.name)
    most = before.bytes + 2 * after.bytes
    if operator.alpha == "premultiply" and before.channels in (2, 4):
        most += 2 * _as_floats(before) + 3 * _as_floats(after)
    if operator.kind(step) == "global":
        most += 2 * _as_floats(before)
    return most


def _as_floats(frame: Frame) -> int:
    return replace(frame, dtype="float32").bytes


ALONE = 4_000_000
"""Pixels from which an image is worth tiles when it has all workers for itself."""
SHARE = 4
"""An image is done whole if it needs no more than such a part of the memory for each worker."""


def why_tiled(
    job: Job, header: Header, plan: Plan, needs: int, memory: int, capacity: int, alone: bool
) -> str | None:
    """Why an image is done in tiles, or None for whole: this never changes its result.

    Args:
        needs: bytes that it needs when it is done whole.
        memory: bytes that there are.
        capacity: how many parts run at the same time.
        alone: no other image waits.
    """
    largest = max(header.frame.pixels, *(output.frame.pixels for output in plan.outputs))
    if job.tile == "never":
        return None
    if job.tile == "always":
        return "--tile always"
    if largest >= ALONE and needs * capacity * SHARE > memory:
        return f"whole it needs {needs / 1e6:,.0f} MB, of {memory / 1e6:,.0f} MB for all workers"
    if largest >= ALONE and alone and capacity > 1:
        return "no other image keeps the workers busy"
    return None


def why_whole(job: Job) -> str:
    """Why an image is not done in tiles, where `why_tiled` knows no reason."""
    return (
        "--tile never" if job.tile == "never" else "it fits, and small images keep all workers busy together"
    )


def explain(header: Header, recipe: Recipe, size: int) -> list[str]:
    """What is done for an image and why, a line each, for people."""
    plan = make_plan(header, recipe)
    frame = header.frame
    lines = [f"input     {header.format}, {frame}, {size:,} bytes"]
    if header.orientation != 1:
        turns = to_text(UPRIGHT[header.orientation])
        lines.append(f"upright   its orientation is {header.orientation}: {turns} comes first")
    lines.append(f"decode    {_why_decode(header, plan, recipe.decode)}")
    for asked, output in zip(recipe.outputs, plan.outputs, strict=True):
        lines.append(f"asked     {to_text(asked.steps)}")
        lines.append(f"steps     {to_text(output.steps) or 'none: the pixels stay as they are'}")
        for step, before in zip(output.steps, operators.frames(output.steps, plan.decoded), strict=False):
            operator = operators.get(step.name)
            kind = operator.kind(step)
            halo = f", halo {operator.halo(**operator.filled(step))} pixels" if operator.halo else ""
            after = operator.frame_after(step, before)
            lines.append(f"          {to_text([step])}: {kind}{halo}, {before} -> {after}")
        quality = f", quality {output.quality}" if codecs.get(output.format).quality else ""
        lines.append(f"encode    {output.format}, {output.frame}{quality}")
        lines.append(f"metadata  {_why_metadata(header, recipe, output)}")
    lines.append(f"memory    {(plan.bytes + size) / 1e6:,.1f} MB at the most, done whole")
    batch = min(BATCH_ITEMS, BATCH_PIXELS // max(1, frame.pixels))
    if batch > 1:
        lines.append(f"batch     up to {batch} images of this size in one task")
    return lines


def _why_decode(header: Header, plan: Plan, decode: Decode) -> str:
    if not header.scalable:
        return f"all of it: {header.format} has no smaller form inside"
    if decode == "exact":
        return "all of it: --decode exact"
    parts = []
    if plan.scale > 1:
        room = "twice the target" if decode == "safe" else "the target"
        parts.append(f"at 1/{plan.scale} by the DCT ({plan.decoded}), not below {room} (--decode {decode})")
    if plan.luma:
        parts.append("luma only: the result is gray, and only resizes and turns come before")
    return "; ".join(parts) or "all of it: no step in front asks for less"


def _why_metadata(header: Header, recipe: Recipe, output: OutputPlan) -> str:
    if recipe.metadata == "strip":
        return "none: --metadata strip"
    carried = [
        kind for kind in codecs.get(header.format).carries if kind in codecs.get(output.format).carries
    ]
    if not carried:
        reader = header.format if not codecs.get(header.format).carries else output.format
        return f"none: imageloom carries none in {reader}"
    lost = header.frame.channels > 2 >= output.frame.channels
    profile = "; not the colour profile: the result is gray" if lost else ""
    return f"{', '.join(k for k in carried if not (lost and k == 'ICC'))} as far as there are any{profile}"
