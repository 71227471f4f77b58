"""Stages of the tests' own, for the engine `pipeline`, which finds them by their names."""

from __future__ import annotations

from imageloom.engines.pipeline.ring import Ring
from imageloom.model import Task
from imageloom.worker.items import Chunk, Lap


def negative(task: Task, chunk: Chunk | None, lap: Lap) -> Chunk:
    """A filter stage that turns 8-bit pixels to their negative, whatever the pipeline says."""
    assert chunk is not None
    return chunk._replace(pixels=tuple(255 - pixels for pixels in chunk.pixels))


def hold_the_lock(ring: Ring) -> None:
    """Take the ring's lock, say so with a chunk's number, and never let go."""
    ring.put(1, b"in a moment")
    with ring._locked():
        ring.readers = 77
        while True:
            pass


def take_and_stay(ring: Ring) -> None:
    """Take a chunk and keep it."""
    ring.take()
    while True:
        pass


def claim_and_stay(ring: Ring) -> None:
    """Begin to write a chunk and never finish."""
    assert ring._claim(9, b"", ()) is not None
    while True:
        pass
