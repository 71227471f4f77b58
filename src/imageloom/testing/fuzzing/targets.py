"""The table of all fuzz targets."""

from __future__ import annotations

from functools import cache
from itertools import chain

from imageloom.testing.fuzzing import images, texts, wires
from imageloom.testing.fuzzing.target import Target


@cache
def all_targets() -> dict[str, Target]:
    """All targets by name."""
    return {one.name: one for one in chain(images.targets(), texts.targets(), wires.targets())}
