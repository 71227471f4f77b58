"""Compares tile sizes and numbers of workers on one large image, with the planner's own choice."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imageloom.bench import programs
from imageloom.bench.records import Cell, Configuration, Sweep
from imageloom.bench.rounds import Say, warmed
from imageloom.bench.samples import draw_photo
from imageloom.bench.work import Work, difference, digests
from imageloom.codecs import get
from imageloom.errors import ImageloomError
from imageloom.model import Encoding
from imageloom.records.ledger import Ledger
from imageloom.records.timeline import DONE, PART
from imageloom.report import recorded
from imageloom.system import machine
from imageloom.tiling import assemble

PIPELINE = "gaussian_blur 2"
SIDE = 4
"""The large image repeats a drawn photo this number of times in each direction."""


def draw_large(path: Path, width: int, height: int) -> None:
    """Draw a JPEG of this size, made of equal pieces."""
    piece = draw_photo(0, width // SIDE, height // SIDE)
    path.write_bytes(get("jpeg").encode(np.tile(piece, (SIDE, SIDE, 1)), Encoding(90)))


class Sweeper:
    """Measures one image in tiles. All outputs must be identical.

    Args:
        place: an empty folder.
    """

    def __init__(self, place: Path, width: int, height: int, say: Say) -> None:
        self._width, self._height = width, height
        (place / "large").mkdir(parents=True)
        draw_large(place / "large" / "large.jpg", width, height)
        self._work = Work(PIPELINE, place / "large", 1, place)
        self._expected: dict[str, str] = {}
        self._say = say

    def run(self, sizes: tuple[int, ...], workers: list[int], repeats: int) -> Sweep:
        """Run all pairs of tile size and workers in turn, in several rounds.

        Raises:
            ImageloomError: a run failed, or its output differs from the one before.
        """
        planned = (assemble.PART_PIXELS, machine.available_cores())
        pairs = [(pixels, count) for pixels in sizes for count in workers]
        seconds: dict[tuple[int, int], list[float]] = {pair: [] for pair in pairs}
        parts: dict[tuple[int, int], int] = {}
        made = 0
        chosen: list[float] = []
        for number in warmed(repeats):
            self._say(f"tile sizes, round {number} of {repeats}")
            for pair in pairs:
                tiles = Configuration("tiles", "threads", pair[1], ("--tile", "always"))
                taken = self._once(tiles, pair[0])
                parts[pair] = self._parts()
                seconds[pair] += [taken] if number else []
            taken = self._once(Configuration("auto", "auto", planned[1]), None)
            made = self._parts()
            chosen += [taken] if number else []
        cells = [Cell(*pair, parts[pair], seconds[pair]) for pair in pairs]
        return Sweep(PIPELINE, self._width, self._height, cells, Cell(*planned, made, chosen))

    def _once(self, configuration: Configuration, pixels: int | None) -> float:
        self._work.clear()
        (image,) = self._work.photos.iterdir()  # a file by itself: the planner knows that no other one waits
        command = self._work.command(configuration, image)
        environment = {} if pixels is None else {assemble.PART_PIXELS_FROM: str(pixels)}
        taken = programs.take(command, environment=environment)
        found = digests(self._work.out) if taken.code == 0 else {}
        self._expected = self._expected or found
        if taken.code or (other := difference(self._expected, found)):
            reason = taken.errors or other
            raise ImageloomError(
                f"the run with tiles of {pixels} pixels ({configuration.label}) failed: {reason}"
            )
        return taken.seconds

    def _parts(self) -> int:
        with Ledger(self._work.ledger) as ledger:
            _, timeline = recorded(ledger, None)
        return sum(a.made_at == PART and a.outcome == DONE for a in timeline.attempts)
