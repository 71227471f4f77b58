"""Measures: how a global operator is computed in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from imageloom.model import Box, Pixels, Step


class Measure(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """How a global operator is computed in parts: map, reduce, apply.

    Each part of the image is measured. The measures are merged in any order. The merged measure gives a point or
    local step with fixed parameters, which is applied to each part. A whole image is one part.
    """

    when: Callable[..., bool]
    """(parameters) -> whether the operator needs a measure at all."""
    measure: Callable[..., Any]
    """(pixels of a part, without alpha) -> the part's measure."""
    merge: Callable[[Any, Any], Any]
    """(measure, another measure) -> the measure of both parts."""
    resolve: Callable[..., Any]
    """(merged measure, parameters) -> the step."""
    plain: Any = np.ndarray
    """The type of a measure: an array, or a type that msgspec can decode."""
    placed: bool = False
    """`measure` also gets the part's box and the parameters, and `resolve` returns a mapping from each part's box
    to the step for that part."""

    positioned: bool = False
    """`measure` also gets the part's box and the parameters; `resolve` returns one step for all parts."""

    sound: Callable[..., bool] | None = None
    """(measure from a worker, the part's box, parameters) -> whether the measure can be that part's. An exception
    counts as False. None for histograms, whose sum is checked against the number of pixels."""

    def of(self, part: Pixels, box: Box, params: dict[str, Any]) -> Any:
        """The measure of the part of an image at the box."""
        return self.measure(part, box, **params) if self.placed or self.positioned else self.measure(part)

    def steps(self, merged: Any, boxes: Sequence[Box], params: dict[str, Any]) -> list[Step]:
        """The step for each measured part, in the order of the boxes."""
        resolved = self.resolve(merged, **params)
        return [resolved[box] for box in boxes] if self.placed else [resolved] * len(boxes)
