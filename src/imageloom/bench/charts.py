"""Drawings of the figures of a bench, for a given width in pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median

from msgspec.structs import replace

from imageloom.bench.panels import efficiency, speedup
from imageloom.bench.records import Bench, Measured
from imageloom.bench.table import BEYOND, Row, table
from imageloom.model import STAGES
from imageloom.report.charts import clock, ticks, time_axis
from imageloom.report.drawing import Bars, Box, Dot, Drawing, Line, Shape, Text
from imageloom.report.text import duration, rate, size

_TOP, _RIGHT, _BOTTOM = 10.0, 16.0, 28.0
_LEFT = 118.0
_ROW = 16.0
_GAP = 7.0
"""Space between two ways, in pixels."""
_LETTER = 6.5
"""Approximate width of a letter, in pixels."""
_FADED = 0.4
"""Opacity of bars with more workers than cores."""


def drawings(bench: Bench, width: float) -> dict[str, Drawing]:
    """The drawings of a bench by name, without those that have no measurements."""
    rows, usual = table(bench), usual_of(bench)
    found = {
        "throughput": throughput(bench, rows, width),
        "speedup": speedup(bench, rows, width),
        "efficiency": efficiency(bench, rows, width),
        "stages": stages(usual, width),
        "timelines": timelines(usual, width),
        "latency": latency(usual, width),
        "cpu": cpu(bench, rows, width),
        "memory": memory(bench, rows, width),
    }
    if bench.sweep:
        found["tiles"] = tiles(bench, width)
    return found


def usual_of(bench: Bench) -> list[Measured]:
    """For each way: the configuration with the most workers that is not above the number of cores."""
    best: dict[str, Measured] = {}
    for one in bench.measured:
        name, workers = one.configuration.name, one.configuration.workers
        if name not in best or best[name].configuration.workers < workers <= bench.machine.cores:
            best[name] = one
    return list(best.values())


class _Rows:
    """Rows of bars, grouped by way, with names on the left and an axis at the bottom."""

    def __init__(self, labels: Sequence[tuple[str, str]], width: float) -> None:
        self.width = width
        self.shapes: list[Shape] = []
        self.tops: list[float] = []
        y, before = _TOP, ""
        for name, workers in labels:
            if before and name != before:
                y += _GAP
            self.tops.append(y)
            if name != before:
                self.shapes.append(Text(0, y + _ROW - 4, name, "ink"))
            self.shapes.append(Text(_LEFT - 10, y + _ROW - 4, workers, anchor="end"))
            y, before = y + _ROW, name
        self.bottom = y + 2

    def x(self, value: float, most: float) -> float:
        return _LEFT + (self.width - _LEFT - _RIGHT) * value / (most or 1)

    def axis(self, most: float, unit: Callable[[float], str]) -> None:
        shapes: list[Shape] = []
        for value in ticks(most, 3 if self.width < 500 else 8):
            x = self.x(value, most)
            shapes.append(Line(((x, _TOP - 4), (x, self.bottom)), "grid"))
            shapes.append(Text(min(x, self.width - 22), self.bottom + 16, unit(value), anchor="middle"))
        self.shapes = shapes + self.shapes

    def drawing(self, title: str, words: str) -> Drawing:
        return Drawing(title, words, self.width, self.bottom + _BOTTOM, tuple(self.shapes))


def _labels(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return [(row.name, f"{row.workers}{BEYOND if row.beyond else ''}") for row in rows]


def _bars(
    rows: Sequence[Row],
    width: float,
    values: Sequence[float],
    unit: Callable[[float], str],
    spans: Sequence[tuple[float, float]] = (),
    line: float | None = None,
) -> _Rows:
    """A bar for each row, with its range, and a line at the serial engine's value."""
    plot = _Rows(_labels(rows), width)
    most = 1.05 * max((*values, *(high for _, high in spans)), default=1.0)
    plot.axis(most, unit)
    for beyond in (False, True):
        boxes = tuple(
            (_LEFT, top + 2, plot.x(value, most) - _LEFT, _ROW - 4)
            for row, top, value in zip(rows, plot.tops, values, strict=True)
            if row.beyond == beyond and value > 0
        )
        plot.shapes.append(Bars(boxes, "accent", _FADED if beyond else 1.0))
    for top, (low, high) in zip(plot.tops, spans, strict=False):
        middle = top + _ROW / 2
        plot.shapes.append(Line(((plot.x(low, most), middle), (plot.x(high, most), middle)), "ink", 1.5))
    if line is not None:
        plot.shapes.append(
            Line(((plot.x(line, most), _TOP - 4), (plot.x(line, most), plot.bottom)), "bad", 1.0)
        )
    return plot


def throughput(bench: Bench, rows: Sequence[Row], width: float) -> Drawing:
    """Images per second, of whole programs."""
    spans = [(bench.images / row.most, bench.images / row.least) for row in rows]
    values = [row.rate for row in rows]
    best = max(rows, key=lambda row: row.rate)
    return _bars(rows, width, values, rate, spans, values[0]).drawing(
        "Throughput",
        f"images per second; the most are {rate(best.rate)}, by {best.name} with {best.workers} workers; "
        f"the red line is the serial engine's {rate(values[0])}",
    )


def cpu(bench: Bench, rows: Sequence[Row], width: float) -> Drawing:
    """CPU seconds of all processes; start and end of the program have another colour."""
    plot = _bars(rows, width, [row.cpu for row in rows], clock, line=rows[0].cpu)
    most = 1.05 * max(row.cpu for row in rows)
    boxes = []
    for one, top in zip(bench.measured, plot.tops, strict=True):
        start = min(one.cpu, median(run.start_cpu for run in one.runs))
        boxes.append((_LEFT, top + 2, plot.x(start, most) - _LEFT, _ROW - 4))
    plot.shapes.append(Bars(tuple(boxes), "encode"))
    return plot.drawing(
        "CPU time",
        f"user and system seconds of all processes, starting and ending in orange; the red line is the serial "
        f"engine's {rows[0].cpu:.2f} s",
    )


def memory(bench: Bench, rows: Sequence[Row], width: float) -> Drawing:
    """Peak memory of all processes together."""
    return _bars(rows, width, [float(row.memory) for row in rows], size, line=rows[0].memory).drawing(
        "Memory",
        "the most of all processes together, each shared page counted once (proportional set size); "
        f"the red line is the serial engine's {size(rows[0].memory)}",
    )


# Where the time goes


def _who(found: Sequence[Measured]) -> list[tuple[str, str]]:
    return [(one.configuration.name, str(one.configuration.workers)) for one in found]


def stages(found: Sequence[Measured], width: float) -> Drawing:
    """Seconds of all workers in each stage."""
    plot = _Rows(_who(found), width)
    most = 1.05 * max(sum(one.stages.values()) for one in found)
    plot.axis(most, clock)
    boxes: dict[str, list[Box]] = {}
    for one, top in zip(found, plot.tops, strict=True):
        at = 0.0
        for stage, seconds in one.stages.items():
            boxes.setdefault(stage, []).append(
                (plot.x(at, most), top + 2, plot.x(at + seconds, most) - plot.x(at, most), _ROW - 4)
            )
            at += seconds
    plot.shapes += [Bars(tuple(all_), stage) for stage, all_ in boxes.items()]
    words = "seconds of all workers in each stage, and of the driver in publishing"
    if any(one.configuration.name.startswith("tiles") for one in found):
        words += "; tiled images are decoded by a thread of the driver, which does not count as a worker"
    return _with_key(plot.drawing("Stages", words), list(boxes))


def latency(found: Sequence[Measured], width: float) -> Drawing:
    """All stages of an image, on a logarithmic scale."""
    plot = _Rows(_who(found), width)
    low = min(one.item.p50 for one in found if one.item.p50) / 2
    most = max(max(one.item.max, one.stay.p50) for one in found) * 1.2

    def x(seconds: float) -> float:
        return plot.x(max(0.0, math.log(max(seconds, low) / low)), math.log(most / low))

    for power in range(math.ceil(math.log10(low)), math.floor(math.log10(most)) + 1):
        plot.shapes.append(Line(((x(10.0**power), _TOP - 4), (x(10.0**power), plot.bottom)), "grid"))
        plot.shapes.append(Text(x(10.0**power), plot.bottom + 16, duration(10.0**power), anchor="middle"))
    for one, top in zip(found, plot.tops, strict=True):
        middle, spread = top + _ROW / 2, one.item
        plot.shapes += [
            Line(((x(spread.p50), middle), (x(spread.max), middle)), "accent", 1.5),
            Bars(((x(spread.p50), top + 3, max(2.0, x(spread.p90) - x(spread.p50)), _ROW - 6),), "accent"),
            Bars(((x(spread.p99) - 1, top + 3, 2, _ROW - 6),), "accent"),
            Dot(x(one.stay.p50), middle, 3, "encode"),
        ]
    return plot.drawing(
        "Latency",
        "an image's stages: from the median to the 90th percentile a bar, a tick at the 99th, a line to the most; "
        "the orange dot is the median from the engine's taking it on until it is published, waits included",
    )


def timelines(found: Sequence[Measured], width: float) -> Drawing:
    """The activity of the workers, on one time scale; gray from the program's start to its end."""
    most = max(one.activity.seconds for one in found)
    high, y = 12.0, _TOP
    shapes: list[Shape] = []
    rows: list[Shape] = []

    def x(seconds: float) -> float:
        return _LEFT + (width - _LEFT - _RIGHT) * min(seconds, most) / most

    seen: set[str] = set()
    for one in found:
        activity = one.activity
        rows.append(Text(0, y + 11, one.configuration.label, "ink"))
        for shares in activity.rows or [{}]:
            seen.update(shares)
            shapes.append(Bars(((_LEFT, y, x(activity.seconds) - _LEFT, high),), "grid", 0.7))
            below = [0.0] * max((len(bins) for bins in shares.values()), default=0)
            for stage in STAGES:
                boxes = []
                for number, percent in enumerate(shares.get(stage, [])):
                    share = min(1 - below[number], percent / 100)
                    if share > 0:
                        at = activity.offset + number * activity.width
                        height = high * share
                        boxes.append(
                            (
                                x(at),
                                y + high * (1 - below[number]) - height,
                                x(at + activity.width) - x(at),
                                height,
                            )
                        )
                        below[number] += share
                shapes.append(Bars(tuple(boxes), stage))
            y += high + 2
        y += _GAP
    shapes += [*rows, *time_axis(x, most, width, y)]
    drawing = Drawing(
        "Timelines",
        "a row for each worker, or for some that followed each other, on one scale of time; gray is the program "
        "from its start to its end",
        width,
        y + _BOTTOM,
        tuple(shapes),
    )
    return _with_key(drawing, [stage for stage in STAGES if stage in seen])


def _with_key(drawing: Drawing, roles: Sequence[str]) -> Drawing:
    """A drawing with a legend of its colours."""
    shapes, x, y = list(drawing.shapes), 0.0, drawing.height
    for role in roles:
        shapes += [Bars(((x, y, 10.0, 10.0),), role), Text(x + 14, y + 9, role)]
        x += 20 + _LETTER * len(role)
    return replace(drawing, height=y + 16, shapes=tuple(shapes))


def tiles(bench: Bench, width: float) -> Drawing:
    """A cell for each tile size and number of workers, darker for shorter times."""
    sweep = bench.sweep
    assert sweep is not None
    sizes = sorted({cell.pixels for cell in sweep.cells})
    counts = sorted({cell.workers for cell in sweep.cells})
    wide, high = (width - _LEFT - _RIGHT) / len(sizes), 34.0
    times = [median(cell.seconds) for cell in sweep.cells]
    low, most = min(times), max(times)
    shapes: list[Shape] = []
    for row, workers in enumerate(counts):
        shapes.append(
            Text(0, _TOP + row * high + 21, f"{workers} workers" if workers > 1 else "1 worker", "ink")
        )
    for column, pixels in enumerate(sizes):
        shapes.append(
            Text(
                _LEFT + (column + 0.5) * wide,
                _TOP + len(counts) * high + 16,
                f"{pixels / 1e6:g} MP",
                anchor="middle",
            )
        )
    for cell, seconds in zip(sweep.cells, times, strict=True):
        x, y = _LEFT + sizes.index(cell.pixels) * wide, _TOP + counts.index(cell.workers) * high
        shade = 1 - (seconds - low) / ((most - low) or 1)
        shapes.append(Bars(((x + 1, y + 1, wide - 2, high - 2),), "soft", 0.15 + 0.85 * shade))
        mark = " best" if cell == sweep.best else ""
        shapes.append(Text(x + wide / 2, y + 21, f"{seconds:.2f} s{mark}", "ink", "middle"))
    planned = sweep.planned
    if planned.parts and planned.pixels in sizes and planned.workers in counts:
        x, y = _LEFT + sizes.index(planned.pixels) * wide + 2, _TOP + counts.index(planned.workers) * high + 2
        corners = ((x, y), (x + wide - 4, y), (x + wide - 4, y + high - 4), (x, y + high - 4), (x, y))
        shapes += [Line(pair, "encode", 2) for pair in pairwise(corners)]
    return Drawing(
        "Tile sizes",
        "seconds by megapixels of a tile and workers, darker where it was faster; the orange frame is what the "
        "planner chose",
        width,
        _TOP + len(counts) * high + _BOTTOM,
        tuple(shapes),
    )
