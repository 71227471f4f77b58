"""Small plots side by side, one per way: speed-up and efficiency by number of workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from imageloom.bench import laws
from imageloom.bench.records import Bench
from imageloom.bench.table import Row, fits
from imageloom.report.charts import ticks
from imageloom.report.drawing import Bars, Dot, Drawing, Line, Shape, Text


class _Panels:
    """A small plot per way, all with the same size and scale: a value by number of workers.

    Args:
        most: maximum of the values.
        unit: distance of the ticks.
    """

    HEIGHT = 150.0
    LEFT, TOP, BOTTOM = 42.0, 26.0, 24.0

    def __init__(
        self, bench: Bench, rows: Sequence[Row], width: float, most: float, unit: Callable[[float], str]
    ) -> None:
        self.names = [name for name in dict.fromkeys(row.name for row in rows) if name != "serial"]
        self._rows, self._width, self._most, self._unit = rows, width, most, unit
        self._cores = bench.machine.cores
        self._across = 2 if width < 500 else 4
        self._wide = width / self._across
        self._end = max(row.workers for row in rows)
        self.shapes: list[Shape] = []

    def place(self, name: str, workers: float, value: float) -> tuple[float, float]:
        """The position of a value in the plot of a way."""
        row, column = divmod(self.names.index(name), self._across)
        across = math.log2(workers) / (math.log2(self._end) or 1)
        high = self.HEIGHT - self.TOP - self.BOTTOM
        x = column * self._wide + self.LEFT + (self._wide - self.LEFT - 16) * across
        return x, row * self.HEIGHT + self.TOP + high * (1 - min(value, self._most) / self._most)

    def ground(self, name: str) -> None:
        """The name of a plot, its axes, and the area with more workers than cores."""
        left, top = self.place(name, 1, self._most)
        bottom, right = self.place(name, 1, 0)[1], left + self._wide - self.LEFT - 6
        self.shapes.append(Text(left, top - 12, name, "ink", size=13))
        if self._end > self._cores:
            begin = self.place(name, self._cores * math.sqrt(2), 0)[0]
            self.shapes.append(Bars(((begin, top, right - begin, bottom - top),), "grid", 0.5))
        for value in ticks(self._most, 3):
            y = self.place(name, 1, value)[1]
            self.shapes.append(Line(((left, y), (right, y)), "grid"))
            self.shapes.append(Text(left - 6, y + 4, self._unit(value), anchor="end"))
        for workers in sorted({row.workers for row in self._rows if row.name == name}):
            self.shapes.append(
                Text(self.place(name, workers, 0)[0], bottom + 16, str(workers), anchor="middle")
            )

    def curve(self, name: str, value: Callable[[float], float], colour: str) -> None:
        """A curve over all numbers of workers, clipped to the scale."""
        steps = [2 ** (n * math.log2(self._end) / 24) for n in range(25)]
        points = tuple(self.place(name, n, value(n)) for n in steps if value(n) <= self._most)
        if len(points) > 1:
            self.shapes.append(Line(points, colour, 1.2))

    def points(self, name: str, value: Callable[[int, float], float]) -> None:
        """The measurements: medians as dots on a line, with ranges. `value` is (workers, seconds) -> value."""
        mine = [row for row in self._rows if row.name == name]
        middles = [self.place(name, row.workers, value(row.workers, row.seconds)) for row in mine]
        if len(middles) > 1:
            self.shapes.append(Line(tuple(middles), "accent", 2))
        for row, middle in zip(mine, middles, strict=True):
            ends = [self.place(name, row.workers, value(row.workers, t)) for t in (row.most, row.least)]
            self.shapes += [Line(tuple(ends), "accent", 1.5), Dot(*middle, 3, "accent")]

    def drawing(self, title: str, words: str) -> Drawing:
        rows = max(1, -(-len(self.names) // self._across))
        return Drawing(title, words, self._width, rows * self.HEIGHT, tuple(self.shapes))


def speedup(bench: Bench, rows: Sequence[Row], width: float) -> Drawing:
    """Speed-up relative to the engine serial: points with ranges, the ideal in gray, and fitted Amdahl's law."""
    serial, found = rows[0].seconds, fits(bench)
    ideal = min(bench.machine.cores, max(row.workers for row in rows))
    most = max(1.15 * max(serial / row.least for row in rows), 1.2 * ideal)
    panels = _Panels(bench, rows, width, most, lambda value: f"{value:g}")
    for name in panels.names:
        panels.ground(name)
        panels.curve(name, lambda workers: workers, "publish")
        if name in found:
            alone = next(row.seconds for row in rows if (row.name, row.workers) == (name, 1))
            part = min(1.0, max(0.0, found[name]))
            panels.curve(name, lambda n, a=alone, p=part: serial / a * laws.amdahl(p, n), "encode")  # type: ignore[misc]
        panels.points(name, lambda _, seconds: serial / seconds)
    return panels.drawing(
        "Speed-up",
        "the serial engine's time over each one's, by workers; gray is the ideal, the thin line Amdahl's law as "
        "fitted up to the number of cores; the shaded part is beyond the cores",
    )


def efficiency(bench: Bench, rows: Sequence[Row], width: float) -> Drawing:
    """Efficiency: the speed-up divided by the number of workers."""
    serial = rows[0].seconds
    most = 1.1 * max(1.0, *(serial / row.least / row.workers for row in rows))
    panels = _Panels(bench, rows, width, most, lambda value: f"{100 * value:.0f}%")
    for name in panels.names:
        panels.ground(name)
        panels.curve(name, lambda _: 1.0, "publish")
        panels.points(name, lambda workers, seconds: serial / seconds / workers)
    return panels.drawing(
        "Efficiency", "the speed-up for each worker; gray is the ideal, the shaded part is beyond the cores"
    )
