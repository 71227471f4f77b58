"""Groups planned items into batches, so that a task with small items takes tens of milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from imageloom.model import Header, Part, Plain, Work
from imageloom.recipes import plan

UPLOADED = 4
"""Maximum number of items in a batch if outputs are uploaded: the first item waits for the last."""


class Ready(Plain, frozen=True):
    """An item that is planned and claimed."""

    work: Work
    pixels: int
    bytes: int
    part: Part | None = None
    """The part to do, for a large image."""
    plan: tuple[Header, plan.Plan] | None = None
    """Header and plan of a large image that is to be started."""


def gather(ready: Iterator[Ready | None], most: Callable[[], int]) -> Iterator[list[Ready]]:
    """Yield batches in the order of the items. A large image is a batch of its own.

    Args:
        ready: the items; None if there is no item at the moment, which yields an empty batch.
        most: returns the maximum number of items in a batch.
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
