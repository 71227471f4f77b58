"""Plans: the steps, the options of the decoder and the encoder for one item, from its header and the recipe.

A plan is a pure function of both. Therefore all engines and workers make the same plan. How an item is run
(batches, tiles, memory) depends on the limits of the run and never changes a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import msgspec
from msgspec.structs import replace

from imageloom import codecs, colours, operators
from imageloom.codecs.adapt import Target, for_output
from imageloom.codecs.metadata import Metadata, held
from imageloom.errors import LimitExceeded, UnsupportedImage
from imageloom.model import Decode, Encoding, Format, Frame, Header, Job, Limits, Output, Plain, Recipe, Step
from imageloom.recipes.colouring import Colouring, placed
from imageloom.recipes.pipeline import to_text
from imageloom.recipes.rewrite import rewrite

BATCH_PIXELS = 4_000_000
"""Maximum number of decoded pixels in a batch: 30 to 60 ms of work on one core."""
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
"""The steps that apply each EXIF orientation to the stored pixels (Exif 2.32, tag 274)."""


class OutputPlan(Plain, frozen=True):
    """The plan of one output."""

    steps: tuple[Step, ...]
    frame: Frame
    """Frame of the pixels to encode."""
    format: Format
    encoding: Encoding
    moved: bool
    """Whether a step moves pixels: a resize, a crop, a turn."""
    colours: str = ""
    """What the input states of its colours, see `Header.colours`."""
    converted: bool = False
    """Whether a step converts the colours to sRGB."""
    profile: str = ""
    """The text of `colours` for which a profile is built, because the output cannot say it as the input does."""

    @property
    def target(self) -> Target:
        """What the input's metadata is adapted to."""
        return Target(
            self.frame,
            codecs.get(self.format).carries,
            self.moved,
            changed=self.moved or bool(self.steps),
            shows_all=all(step.name in _SHOWING_ALL for step in self.steps),
            colours=self.colours,
            converted=self.converted,
            profile=colours.built(self.profile, self.frame.channels <= 2) if self.profile else b"",
        )


_SHOWING_ALL = ("resize", "flip", "rotate", "convert_from")


class Plan(Plain, frozen=True):
    """The plan of one item."""

    luma: bool
    """Decode only the luma (brightness)."""
    scale: int
    """Divisor of the width and the height of the decoded image: 1, 2, 4 or 8."""
    decoded: Frame
    outputs: tuple[OutputPlan, ...]
    bytes: int
    """The peak memory for the item, including the input's pixels and the outputs' bytes."""

    @property
    def needs_profile(self) -> bool:
        """Whether a step needs the profile of the file."""
        return any(output.converted and output.colours.startswith("profile") for output in self.outputs)


UNSUSPECTED = 64 << 20
"""Any file may decode to this number of bytes; only above it the expansion is checked."""


def check_limits(header: Header, limits: Limits, size: int) -> None:
    """Check the limits before an image is decoded.

    Args:
        size: size of the file in bytes.

    Raises:
        LimitExceeded: the image is over a limit; the message names the limit, its value and its flag.
    """
    if header.frame.pixels > limits.max_pixels:
        raise LimitExceeded(
            f"the image has {header.frame.pixels:,} pixels ({header.frame.width}x{header.frame.height}), over the "
            f"limit of {limits.max_pixels:,} (--max-pixels)"
        )
    unfolded = header.frame.bytes + header.buffered
    if unfolded > max(UNSUSPECTED, size * limits.max_expansion):
        raise LimitExceeded(
            f"the file of {size:,} bytes would decode to {unfolded:,} bytes, over the limit of "
            f"{limits.max_expansion:,} bytes per byte of the file (--max-expansion)"
        )


@lru_cache(maxsize=1024)
def _plan(header: Header, recipe: bytes) -> Plan:
    return _make_plan(header, msgspec.msgpack.decode(recipe, type=Recipe))


operators.reloaded.append(lambda module: _plan.cache_clear())
_encode = msgspec.msgpack.Encoder().encode


def make_plan(header: Header, recipe: Recipe) -> Plan:
    """The plan for an image with this header.

    Raises:
        OperatorRefused: a step does not accept its input.
        UnsupportedImage: the output's format does not support the pixels.
    """
    return _plan(header, _encode(recipe))


def _make_plan(header: Header, recipe: Recipe) -> Plan:
    upright = UPRIGHT[header.orientation]
    formats = [codecs.written_as(output.format, header.format) for output in recipe.outputs]
    coloured = [
        placed(rewrite((*upright, *output.steps), header.frame), header, recipe, format)
        for output, format in zip(recipe.outputs, formats, strict=True)
    ]
    rewritten = [one.steps for one in coloured]
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
        _plan_output(one, decoded, header, output, format)
        for one, output, format in zip(coloured, recipe.outputs, formats, strict=True)
    )
    return Plan(luma, scale, decoded, outputs, _peak(decoded, outputs) + header.buffered)


def _plan_output(
    coloured: Colouring, decoded: Frame, header: Header, output: Output, format: Format
) -> OutputPlan:
    steps = rewrite(coloured.steps, decoded)
    frame = operators.frames(steps, decoded)[-1]
    codec = codecs.get(format)
    reason = codec.cannot_hold(frame)
    if reason:
        raise UnsupportedImage(reason)
    encoding = Encoding(
        codec.quality if output.quality is None else output.quality,
        subsampling=header.subsampling if output.subsampling == "keep" else output.subsampling,
    )
    moved = decoded != header.frame or any(
        operators.get(step.name).kind(step) == "geometric" for step in steps
    )
    return OutputPlan(
        tuple(steps), frame, format, encoding, moved, header.colours, coloured.converted, coloured.profile
    )


def _wants_luma(steps: Sequence[Step]) -> bool:
    """Whether grayscale is the first step, or only resizes, crops and turns precede it. These can be swapped with
    grayscale, except for rounding."""
    for step in steps:
        if step.name == "grayscale":
            return True
        if step.name not in ("resize", "crop", "flip", "rotate"):
            return False
    return False


def _scale(steps: Sequence[Step], frame: Frame, decode: Decode) -> int:
    """The divisor for the decoder, from the first resize, if only turns and grayscale precede it."""
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
        if step.name not in ("flip", "rotate", "grayscale", "convert_from"):
            return 1
        frame = after
    return 1


def _peak(decoded: Frame, outputs: Sequence[OutputPlan]) -> int:
    """Peak memory in bytes: the decoded pixels and all outputs, and the most expensive step or encoder."""
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
"""Memory of an encoder, as a multiple of the pixels' size: a reordered copy of the pixels, the encoded bytes in a
buffer that doubles when it grows, and a copy of the bytes."""


def _step_bytes(step: Step, before: Frame, after: Frame) -> int:
    """Memory of a step in bytes: input, output and one copy of it, and floats if the operator needs them."""
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
"""Minimum number of pixels of an image for tiles, if it is the only one in progress."""
SHARE = 4
"""An image needs no tiles if it needs at most 1 / SHARE of the memory per worker."""


def why_tiled(
    job: Job, header: Header, plan: Plan, needs: int, memory: int, capacity: int, alone: bool
) -> str | None:
    """Why an image is processed in tiles; None if it is processed as a whole. The result is the same.

    Args:
        needs: memory for the whole image, in bytes.
        memory: memory of the run, in bytes.
        capacity: number of parts that run at the same time.
        alone: no other image is waiting.
    """
    largest = max(header.frame.pixels, *(output.frame.pixels for output in plan.outputs))
    if job.tile == "never":
        return None
    if job.tile == "always":
        return "--tile always"
    if largest >= ALONE and needs * capacity * SHARE > memory:
        return f"the whole image needs {needs / 1e6:,.0f} MB, of {memory / 1e6:,.0f} MB for all workers"
    if largest >= ALONE and alone and capacity > 1:
        return "no other image keeps the workers busy"
    return None


def why_whole(job: Job) -> str:
    """Why an image is not processed in tiles, if `why_tiled` returned None."""
    return (
        "--tile never"
        if job.tile == "never"
        else "it needs little memory, and one worker per image is faster"
    )


def explain(header: Header, recipe: Recipe, size: int, metadata: Metadata | None = None) -> list[str]:
    """Lines that explain the plan of an image to users.

    Args:
        metadata: the metadata of the file, if it was read.
    """
    plan = make_plan(header, recipe)
    frame = header.frame
    lines = [f"input     {header.format}, {frame}, {size:,} bytes"]
    if header.orientation != 1:
        turns = to_text(UPRIGHT[header.orientation])
        lines.append(f"upright   the file has orientation {header.orientation}: {turns} is done first")
    lines.append(f"decode    {_why_decode(header, plan, recipe.decode)}")
    for asked, output in zip(recipe.outputs, plan.outputs, strict=True):
        lines.append(f"asked     {to_text(asked.steps)}")
        lines.append(f"steps     {to_text(output.steps) or 'none: the pixels are not changed'}")
        for step, before in zip(output.steps, operators.frames(output.steps, plan.decoded), strict=False):
            operator = operators.get(step.name)
            kind = operator.kind(step)
            halo = f", halo {operator.halo(**operator.filled(step))} pixels" if operator.halo else ""
            after = operator.frame_after(step, before)
            lines.append(f"          {to_text([step])}: {kind}{halo}, {before} -> {after}")
        quality = f", quality {output.encoding.quality}" if codecs.get(output.format).quality else ""
        lines.append(f"encode    {output.format}, {output.frame}{quality}")
        lines.append(f"colours   {_why_colours(header, recipe, output)}")
        lines.append(f"metadata  {_why_metadata(header, recipe, output, metadata)}")
    lines.append(f"memory    at most {(plan.bytes + size) / 1e6:,.1f} MB, without tiles")
    batch = min(BATCH_ITEMS, BATCH_PIXELS // max(1, frame.pixels))
    if batch > 1:
        lines.append(f"batch     up to {batch} images of this size in one task")
    return lines


def _why_colours(header: Header, recipe: Recipe, output: OutputPlan) -> str:
    if header.stored:
        return f"the file has {header.stored}: converted to sRGB by the decoder"
    if not header.colours:
        return "sRGB, or not stated by the file: not changed"
    stated = f"the file states {colours.label(header.colours)}"
    if output.profile:
        return f"{stated}: the output has a profile that says the same"
    if not output.converted:
        return f"{stated}: kept"
    if any(step.name == "to_srgb" for one in recipe.outputs for step in one.steps):
        why = "to_srgb"
    elif recipe.colors == "srgb":
        why = "--colors srgb"
    elif recipe.metadata == "strip":
        why = "--metadata strip, which removes the statement"
    else:
        why = f"{'gray ' if output.frame.channels <= 2 else ''}{output.format} output cannot say it"
    at = [step.name for step in output.steps].index("convert_from")
    where = f"after {output.steps[at - 1].name}" if at else "before all steps"
    return f"{stated}: converted to sRGB {where} ({why})"


def _fate(metadata: Metadata, recipe: Recipe, output: OutputPlan) -> str:
    """What becomes of each thing in a file: kept as it is, changed to fit the output, or dropped."""
    carried = for_output(metadata, output.target)
    before, after = held(metadata), held(carried.metadata)
    kept = before.keys() - carried.dropped
    changed = {thing for thing in kept if before[thing] != after[thing]}
    dropped = "refused (--strict-metadata)" if recipe.metadata == "strict" else "dropped"
    parts = [
        f"{what}: {', '.join(sorted(found))}"
        for what, found in (("kept", kept - changed), ("changed", changed), (dropped, carried.dropped))
        if found
    ]
    return "; ".join(parts) or "the file has none"


def _why_decode(header: Header, plan: Plan, decode: Decode) -> str:
    if not header.scalable:
        return f"full size: {header.format} cannot be decoded at a smaller size"
    if decode == "exact":
        return "full size: --decode exact"
    parts = []
    if plan.scale > 1:
        least = "twice the target size" if decode == "safe" else "the target size"
        parts.append(f"1/{plan.scale} of the size ({plan.decoded}): at least {least} (--decode {decode})")
    if plan.luma:
        parts.append("luma only: the output is gray, and only resizes, crops and turns come before that step")
    return "; ".join(parts) or "full size: no resize at the start of the pipeline allows a smaller size"


def _why_metadata(header: Header, recipe: Recipe, output: OutputPlan, metadata: Metadata | None) -> str:
    if recipe.metadata == "strip":
        return "none: --metadata strip"
    if metadata is not None:
        return _fate(metadata, recipe, output)
    carried = [
        kind for kind in codecs.get(header.format).carries if kind in codecs.get(output.format).carries
    ]
    if not carried:
        reader = header.format if not codecs.get(header.format).carries else output.format
        return f"none: imageloom does not support metadata in {reader}"
    lost = header.frame.channels > 2 >= output.frame.channels
    profile = "; not the colour profile, because the output is gray" if lost else ""
    kept = ", ".join(kind for kind in carried if not (lost and kind == "colour profile"))
    return f"{kept}, if the file has them{profile}"
