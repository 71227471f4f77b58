"""Explains the plan of an image to users: what is done, and why."""

from __future__ import annotations

from itertools import pairwise

from imageloom import codecs, colours, operators
from imageloom.codecs.metadata import Metadata, held
from imageloom.model import Decode, Header, Output, Recipe
from imageloom.recipes.pipeline import to_text
from imageloom.recipes.plan import BATCH_ITEMS, BATCH_PIXELS, UPRIGHT, OutputPlan, Plan, make_plan
from imageloom.recipes.when import holds


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
    made = {output.place: output for output in plan.outputs}
    for place, asked in enumerate(recipe.outputs):
        when = f"when {asked.when}: " if asked.when else ""
        lines.append(f"asked     {when}{to_text(asked.steps)}{_width(asked)}")
        if (output := made.get(place)) is None:
            lines.append(f"output    none: {_why_none(asked, header)}")
            continue
        lines.append(f"steps     {to_text(output.steps) or 'none: the pixels are not changed'}")
        frames = pairwise(operators.frames(output.steps, plan.decoded))
        most = ""
        for step, (before, after) in zip(output.steps, frames, strict=True):
            operator = operators.get(step.name)
            kind, most = operator.kind(step), "at most " if operator.shrinks else most
            halo = f", halo {operator.halo(**operator.filled(step))} pixels" if operator.halo else ""
            lines.append(f"          {to_text([step])}: {kind}{halo}, {before} -> {most}{after}")
        lines.append(f"encode    {output.format}, {output.frame}{_how_encoded(asked, output)}")
        lines.append(f"colours   {_why_colours(header, recipe, output)}")
        lines.append(f"metadata  {_why_metadata(header, recipe, output, metadata)}")
    lines.append(f"memory    at most {(plan.bytes + size) / 1e6:,.1f} MB, without tiles")
    batch = min(BATCH_ITEMS, BATCH_PIXELS // max(1, frame.pixels))
    if batch > 1:
        lines.append(f"batch     up to {batch} images of this size in one task")
    return lines


def _width(asked: Output) -> str:
    return f", then {asked.width} pixels wide, if it is wider" if asked.width else ""


def _why_none(asked: Output, header: Header) -> str:
    if not holds(asked.when, header):
        return f"{asked.when} does not hold"
    return f"it would not be wider than {asked.above} pixels, as a smaller output of this set is"


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
    carried = output.carried(metadata)
    before, after = held(metadata), held(carried.metadata)
    kept = before.keys() - carried.dropped
    changed = {thing for thing in kept if before[thing] != after.get(thing)}
    dropped = "refused (--strict-metadata)" if recipe.metadata == "strict" else "dropped"
    parts = [
        f"{what}: {', '.join(sorted(found))}"
        for what, found in (("kept", kept - changed), ("changed", changed), (dropped, carried.dropped))
        if found
    ]
    return "; ".join(parts) or "the file has none"


def _how_encoded(asked: Output, output: OutputPlan) -> str:
    encoding, parts = output.encoding, list[str]()
    if encoding.lossless:
        parts.append("lossless" if asked.lossless else "lossless, as the input is (--quality makes it lossy)")
    elif codecs.get(output.format).quality:
        least = "1 to " if encoding.max_bytes else ""
        parts.append(f"quality {least}{encoding.quality}")
    parts += [f"at most {encoding.max_bytes:,} bytes"] * bool(encoding.max_bytes)
    parts += ["progressive"] * encoding.progressive
    parts += [f"effort {encoding.effort}"] * bool(encoding.effort)
    if output.only_if_smaller:
        otherwise = "a copy of the input" if output.equals_input else "nothing"
        parts.append(f"{otherwise} if it is not smaller than the input")
    return "".join(f", {part}" for part in parts)


def _why_decode(header: Header, plan: Plan, decode: Decode) -> str:
    if not (header.scalable or header.scales):
        return f"full size: {header.format} cannot be decoded at a smaller size"
    if decode == "exact":
        return "full size: --decode exact"
    parts = []
    if plan.scale > 1:
        least = "twice the target size" if decode == "safe" else "the target size"
        parts.append(f"1/{plan.scale} of the size ({plan.decoded}): at least {least} (--decode {decode})")
    if plan.luma:
        parts.append("luma only, instead of the step grayscale: only resizes, crops and turns come before it")
    most = "1/4" if decode == "safe" else "1/2"
    return (
        "; ".join(parts)
        or f"full size: no resize at the start makes it {most} or smaller (--decode {decode})"
    )


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
