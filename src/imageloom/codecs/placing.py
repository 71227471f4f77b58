"""Where the positions of an input's pixels are in an output."""

from __future__ import annotations

from math import hypot, isclose, isnan
from typing import NamedTuple

from imageloom.model import Frame

Span = tuple[float, float, float, float]
"""The left, the top, the right and the bottom of a rectangle."""
_CLOSE = 1e-9


class Placing(NamedTuple):
    """An affine map from positions in the stored image to positions in the output, in pixels.

    A number that is not known is NaN: then no position is inside the output.
    """

    before: Frame
    """The frame of the input's file, before its orientation is applied."""
    after: Frame
    """The frame of the output."""
    across: tuple[float, float] = (1.0, 0.0)
    """How far a step of one pixel to the right leads in the output, to the right and down."""
    down: tuple[float, float] = (0.0, 1.0)
    """How far a step of one pixel down leads in the output, to the right and down."""
    start: tuple[float, float] = (0.0, 0.0)
    """Where the top left corner is."""

    @property
    def is_turned(self) -> bool:
        """Whether directions have changed, or may have: by a rotation or a mirror."""
        return not (self.across[0] > 0 and self.down[1] > 0)

    @property
    def has_swapped_axes(self) -> bool:
        return self.across[0] == 0

    @property
    def keeps_scale(self) -> bool:
        """Whether columns and rows are as dense as before."""
        return self.scales == (1.0, 1.0) and not self.has_swapped_axes

    @property
    def keeps_parts(self) -> bool:
        """Whether positions as parts of the width and of the height are those of before: at most a resize."""
        return (
            (self.start, self.is_turned) == ((0.0, 0.0), False)
            and isclose(self.across[0] * self.before.width, self.after.width)
            and isclose(self.down[1] * self.before.height, self.after.height)
        )

    @property
    def scales(self) -> tuple[float, float]:
        """The length of a pixel of the stored image in the output, for its columns and for its rows."""
        return hypot(*self.across), hypot(*self.down)

    @property
    def scale(self) -> float | None:
        """The length of a pixel in the output, if it is the same in both directions."""
        return self.scales[0] if isclose(*self.scales, rel_tol=0.01) else None

    def point(self, x: float, y: float) -> tuple[float, float] | None:
        """The position in the output; None if it is outside."""
        there = self._moved(x, y)
        return there if 0 <= there[0] <= self.after.width and 0 <= there[1] <= self.after.height else None

    def span(self, span: Span) -> Span | None:
        """The part of a rectangle that is inside the output; None if there is none."""
        x0, y0 = self._moved(span[0], span[1])
        x1, y1 = self._moved(span[2], span[3])
        left, right = max(0.0, min(x0, x1)), min(float(self.after.width), max(x0, x1))
        top, bottom = max(0.0, min(y0, y1)), min(float(self.after.height), max(y0, y1))
        if right - left > _CLOSE and bottom - top > _CLOSE and not isnan(self.start[0]):
            return left, top, right, bottom
        return None

    def _moved(self, x: float, y: float) -> tuple[float, float]:
        return (
            self.start[0] + x * self.across[0] + y * self.down[0],
            self.start[1] + x * self.across[1] + y * self.down[1],
        )
