"""How an image is cut into pieces."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from imageloom.model import Frame, Pixels, Plain


class Pieces(Plain, frozen=True):
    """A grid of equal tiles or strips, counted row by row; those at the right and below may be smaller."""

    frame: Frame
    width: int
    height: int

    @property
    def columns(self) -> int:
        return -(-self.frame.width // self.width)

    @property
    def rows(self) -> int:
        return -(-self.frame.height // self.height)

    def __len__(self) -> int:
        return self.columns * self.rows

    def box(self, index: int) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of a piece, cut at the edges of the image."""
        row, column = divmod(index, self.columns)
        x, y = column * self.width, row * self.height
        return x, y, min(x + self.width, self.frame.width), min(y + self.height, self.frame.height)

    def touching(self, x0: int, y0: int, x1: int, y1: int) -> Iterator[int]:
        """The pieces that a box has pixels of."""
        for row in range(y0 // self.height, -(-y1 // self.height)):
            for column in range(x0 // self.width, -(-x1 // self.width)):
                yield row * self.columns + column


def check_box(frame: Frame, x0: int, y0: int, x1: int, y1: int) -> None:
    """Raise ValueError for a box that is empty or not within the image."""
    if not (0 <= x0 < x1 <= frame.width and 0 <= y0 < y1 <= frame.height):
        raise ValueError(f"the box {x0},{y0},{x1},{y1} is not within {frame}")


def filled(pixels: Pixels, height: int, width: int) -> Pixels:
    """A piece of full size: one that was cut at an edge goes on with its last row and column."""
    below, right = height - pixels.shape[0], width - pixels.shape[1]
    if not below and not right:
        return np.ascontiguousarray(pixels)
    return np.pad(pixels, ((0, below), (0, right), (0, 0))[: pixels.ndim], mode="edge")
