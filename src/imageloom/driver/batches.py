"""From planned items to batches: small ones together, so that a task takes tens of milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from imageloom.model import Header, Part, Plain, Work
from imageloom.recipes import plan

UPLOADED = 4
"""Items of a batch whose outputs are uploaded: few, as the first one waits for the last."""


class Ready(Plain, frozen=True):
    """An item that is planned and claimed."""

    work: Work
    pixels: int
    bytes: int
    part: Part | None = None
    """Of a large image: the part to do."""
    plan: tuple[Header, plan.Plan] | None = None
    """Of a large image that is to be begun."""


def gather(ready: Iterator[Ready | None], most: Callable[[], int]) -> Iterator[list[Ready]]:
    """Batches in the order of the items; a large image is one by itself.

    Args:
        ready: None where nothing follows at the moment: an empty batch says so.
        most: how many items a batch may have now.
    """
    batch: list[Ready] = []
    pixels = 0
    for one in ready:
        if one is None or one.plan or most() == 1:
            if batch:
                yield batch
                batch, pixels = [], 0
            yield [one] if one else []
            continue
        if batch and (pixels + one.pixels > plan.BATCH_PIXELS or len(batch) >= most()):
            yield batch
            batch, pixels = [], 0
        batch.append(one)
        pixels += one.pixels
    if batch:
        yield batch
