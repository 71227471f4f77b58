"""Whether an image is processed as a whole or in tiles. The result is the same."""

from __future__ import annotations

from imageloom import operators
from imageloom.model import Header, Job
from imageloom.recipes.plan import Plan

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
    largest = max(header.frame.pixels, 0, *(output.frame.pixels for output in plan.outputs))
    if job.tile == "never" or plan.needs_file or _why_one(plan):
        return None
    if job.tile == "always":
        return "--tile always"
    if largest >= ALONE and needs * capacity * SHARE > memory:
        return f"the whole image needs {needs / 1e6:,.0f} MB, of {memory / 1e6:,.0f} MB for all workers"
    if largest >= ALONE and alone and capacity > 1:
        return "no other image keeps the workers busy"
    return None


def why_whole(job: Job, plan: Plan) -> str:
    """Why an image is not processed in tiles, if `why_tiled` returned None."""
    if job.tile == "never":
        return "--tile never"
    return _why_one(plan) or "it needs little memory, and one worker per image is faster"


def _why_one(plan: Plan) -> str:
    """Why an image cannot be processed in tiles; empty if it can be."""
    if all(operators.is_known(output.steps) for output in plan.outputs):
        return ""
    return "the size after trim is known only when the pixels are"
