"""Exact rewrites: each replaces steps by other steps that need less work and give the same result, bit for bit.

A rewrite is a pure function of the steps and the input's frame. A test compares both results on pixels. The
rewrites are tried in the order of `RULES`, repeatedly, until none changes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from imageloom import operators
from imageloom.model import Frame, Step, Value
from imageloom.operators.geometry import crop_box, is_fixed
from imageloom.operators.resize import box_of_cover, padded, target
from imageloom.operators.trimming import length_before

Steps = tuple[Step, ...]
Turn = tuple[int, bool]
"""Number of quarter turns clockwise, and whether a left-right mirror follows: one of eight symmetries."""


def rewrite(steps: Sequence[Step], frame: Frame) -> Steps:
    """The steps after all rewrites. They give the same result for every image of that frame."""
    known = length_before(steps)  # rewrites need the size
    now, rest = tuple(steps[:known]), tuple(steps[known:])
    while True:
        before = now
        for rule in RULES:
            now = rule(now, frame)
        if now == before:
            return (*fold_tables(now, frame), *rest)


def resolve_sizes(steps: Steps, frame: Frame) -> Steps:
    """Replace a proportional resize by a resize to a size in pixels, or remove it. fit=cover becomes a crop after
    it, and fit=pad a pad."""
    rewritten: list[Step] = []
    for step, before in zip(steps, operators.frames(steps, frame), strict=False):
        if step.name != "resize":
            rewritten.append(step)
            continue
        params = operators.get("resize").filled(step)
        width, height = target(
            before.width, before.height, params["size"], params["fit"], bool(params["enlarge"])
        )
        options: dict[str, Value] = {
            name: step.params[name] for name in ("kernel", "light") if name in step.params
        }
        is_exact = before.dtype != "float32" or params["light"] == "encoded"
        # A resize makes the colour of fully transparent pixels black, even a resize to the same size.
        has_alpha = before.without_extra.channels in (2, 4)
        if (width, height) != (before.width, before.height) or has_alpha or not is_exact:
            rewritten.append(Step("resize", {"size": f"{width}x{height}", **options}))
        kept = box_of_cover(width, height, params["size"], params["fit"])
        if kept:
            rewritten.append(Step("crop", {"area": f"{kept[0]}x{kept[1]}"}))
        rewritten += padded(str(params["size"]), str(params["fit"]), str(params["background"]))
    return tuple(rewritten)


def drop_identities(steps: Steps, frame: Frame) -> Steps:
    """Remove steps without effect: grayscale of gray, crop of the whole image, auto_orient, invert | invert."""
    kept: list[Step] = []
    for step, before in zip(steps, operators.frames(steps, frame), strict=False):
        if step.name == "auto_orient" or (step.name == "grayscale" and before.without_extra.channels < 3):
            continue
        if step.name == "crop":
            box = crop_box(before.width, before.height, str(step.params["area"]))
            if box == (0, 0, before.width, before.height):
                continue
        if step.name == "invert" and kept and kept[-1].name == "invert" and before.dtype != "float32":
            kept.pop()
            continue
        kept.append(step)
    return tuple(kept)


def merge_turns(steps: Steps, frame: Frame) -> Steps:
    """Replace a sequence of flips and quarter turns by at most one rotation and one flip."""
    merged: list[Step] = []
    run: Turn = (0, False)
    for step in (*steps, None):
        if step is not None and step.name in ("flip", "rotate"):
            run = _then(run, _turn(step))
            continue
        merged += _as_steps(run)
        run = (0, False)
        if step is not None:
            merged.append(step)
    return tuple(merged)


def _turn(step: Step) -> Turn:
    if step.name == "rotate":
        return int(str(step.params["degrees"])) // 90, False
    return (2, True) if step.params.get("axis") == "vertical" else (0, True)


def _then(first: Turn, second: Turn) -> Turn:
    """The turn that equals `first` followed by `second`. After a mirror, turns have the opposite direction."""
    quarters = first[0] + (-second[0] if first[1] else second[0])
    return quarters % 4, first[1] != second[1]


def _as_steps(turn: Turn) -> list[Step]:
    quarters, mirrored = turn
    if mirrored and quarters == 2:
        return [Step("flip", {"axis": "vertical"})]
    turned = [Step("rotate", {"degrees": 90 * quarters})] if quarters else []
    return [*turned, Step("flip")] if mirrored else turned


def grayscale_first(steps: Steps, frame: Frame) -> Steps:
    """Move grayscale before steps that only move pixels: fewer values are moved, and only luma may be decoded."""
    return _move_forward(steps, "grayscale", lambda before: before.name in ("flip", "rotate"))


def crop_first(steps: Steps, frame: Frame) -> Steps:
    """Move a crop before point steps, so that they process fewer pixels."""
    return _move_forward(steps, "crop", lambda before: operators.get(before.name).kind(before) == "point")


def _move_forward(steps: Steps, name: str, over: Callable[[Step], bool]) -> Steps:
    moved = list(steps)
    for i in range(1, len(moved)):
        at = i
        while at > 0 and moved[at].name == name and is_fixed(moved[at]) and over(moved[at - 1]):
            moved[at - 1], moved[at] = moved[at], moved[at - 1]
            at -= 1
    return tuple(moved)


def merge_crops(steps: Steps, frame: Frame) -> Steps:
    """Replace two crops by one."""
    merged: list[Step] = []
    for step, before in zip(steps, operators.frames(steps, frame), strict=False):
        if step.name == "crop" and is_fixed(step):
            box = crop_box(before.width, before.height, str(step.params["area"]))
            if merged and merged[-1].name == "crop" and is_fixed(merged[-1]):
                outer = crop_box(0, 0, str(merged.pop().params["area"]))
                box = (box[0] + outer[0], box[1] + outer[1], box[2] + outer[0], box[3] + outer[1])
            x0, y0, x1, y1 = box
            step = Step("crop", {"area": f"{x1 - x0}x{y1 - y0}+{x0}+{y0}"})
        merged.append(step)
    return tuple(merged)


def fold_tables(steps: Steps, frame: Frame) -> Steps:
    """Replace a sequence of channelwise steps on 8 bits by one look-up table."""
    folded: list[Step] = []
    run: list[Step] = []
    frames = operators.frames(steps, frame)
    for step, before in zip((*steps, None), frames, strict=True):
        if step is not None and before.dtype == "uint8" and _is_channelwise(step):
            run.append(step)
            continue
        folded += _as_table(run) if len(run) > 1 else run
        run = []
        if step is not None:
            folded.append(step)
    return tuple(folded)


def _is_channelwise(step: Step) -> bool:
    operator = operators.get(step.name)
    return operator.channelwise and operator.kind(step) == "point"


def _as_table(run: list[Step]) -> list[Step]:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for step in run:
        levels = operators.apply(step, levels)
    return [Step("table", {"values": levels.tobytes().hex()})]


RULES: tuple[Callable[[Steps, Frame], Steps], ...] = (
    resolve_sizes,
    drop_identities,
    merge_turns,
    grayscale_first,
    crop_first,
    merge_crops,
)
