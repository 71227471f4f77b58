"""Drawings of the figures of a job, for a given width in pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from imageloom.model import STAGES
from imageloom.records.timeline import ASSEMBLED, Timeline
from imageloom.report.drawing import Area, Bars, Box, Dot, Drawing, Line, Shape, Text
from imageloom.report.figures import Figures, rows
from imageloom.report.text import duration, rate, size, spreads

_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 14.0, 12.0, 26.0
_PLOT = 150.0
"""Height of a plot over time, without its axes."""
_ROW = 22.0
MOST_ROWS = 64
"""Maximum number of rows in a drawing; for the others, only their number is shown."""
_SHADES = 10


def drawings(figures: Figures, width: float) -> dict[str, Drawing]:
    """The drawings of a report by name, without those that have no measurements."""
    found = {
        "throughput": throughput(figures, width),
        "latency": latency(figures, width),
        "workers": workers(figures, width),
    }
    if figures.machine.at:
        found["cores"] = cores(figures, width)
        found["memory"] = memory(figures, width)
    return found


def ticks(most: float, about: int) -> list[float]:
    """About `about` round numbers from 0 to `most`."""
    if most <= 0:
        return [0.0]
    step = 10.0 ** math.floor(math.log10(most / about))
    step *= next((m for m in (1, 2, 5) if most / (step * m) <= about), 10)
    return [step * i for i in range(int(most / step + 1e-9) + 1)]


class _Plot:
    """A plot over the time of the run, with its axes."""

    def __init__(self, figures: Figures, width: float, most: float, unit: Callable[[float], str]) -> None:
        self.width, self.height = width, _TOP + _PLOT + _BOTTOM
        self._seconds = max(figures.seconds, 1e-6)
        self._most = most * 1.08 or 1.0
        self.shapes: list[Shape] = []
        for value in ticks(self._most, 4):
            y = self.y(value)
            self.shapes.append(Line(((_LEFT, y), (width - _RIGHT, y)), "grid"))
            self.shapes.append(Text(_LEFT - 8, y + 4, unit(value), anchor="end"))
        self.shapes += time_axis(self.x, self._seconds, width, _TOP + _PLOT)

    def x(self, seconds: float) -> float:
        return _LEFT + (self.width - _LEFT - _RIGHT) * min(1.0, seconds / self._seconds)

    def y(self, value: float) -> float:
        return _TOP + _PLOT * (1 - value / self._most)

    def drawing(self, title: str, summary: str) -> Drawing:
        return Drawing(title, summary, self.width, self.height, tuple(self.shapes))


def time_axis(x: Callable[[float], float], seconds: float, width: float, y: float) -> list[Shape]:
    """The ticks of an axis of time below a plot."""
    found: list[Shape] = []
    for value in ticks(seconds, 4 if width < 500 else 8):
        found.append(Line(((x(value), y), (x(value), y + 4)), "grid"))
        if x(value) < width - _RIGHT - 10:
            found.append(Text(x(value), y + 18, clock(value), anchor="middle"))
    return found


def clock(seconds: float) -> str:
    """A time of a run as short text."""
    if seconds >= 3600:
        return f"{seconds / 3600:.3g} h"
    if seconds >= 120:
        return f"{seconds / 60:.3g} min"
    return f"{seconds:.3g} s"


def throughput(figures: Figures, width: float) -> Drawing:
    """Items done per second, over the time of the run."""
    bins = figures.throughput
    rates = [n / bins.width for n in bins.done]
    bad = [n / bins.width for n in bins.failed]
    most = max(a + b for a, b in zip(rates, bad, strict=True))
    plot = _Plot(figures, width, most, rate)
    good_boxes: list[Box] = []
    bad_boxes: list[Box] = []
    for place, (done, failed) in enumerate(zip(rates, bad, strict=True)):
        left, right = plot.x(place * bins.width), plot.x((place + 1) * bins.width)
        gap = min(1.0, (right - left) / 5)
        for boxes, low, high in ((good_boxes, 0.0, done), (bad_boxes, done, done + failed)):
            if high > low:
                boxes.append((left, plot.y(high), right - left - gap, plot.y(low) - plot.y(high)))
    plot.shapes += [Bars(tuple(good_boxes), "accent"), Bars(tuple(bad_boxes), "bad")]
    return plot.drawing(
        "Throughput",
        f"{rate(figures.rate)} items each second on the mean, at most {rate(max(rates))}, "
        f"counted in steps of {duration(bins.width)}",
    )


def memory(figures: Figures, width: float) -> Drawing:
    """Memory of the run's processes over time."""
    machine = figures.machine
    plot = _Plot(figures, width, max(machine.resident, default=0), size)
    line = tuple((plot.x(at), plot.y(used)) for at, used in zip(machine.at, machine.resident, strict=True))
    area = ((line[0][0], plot.y(0)), *line, (line[-1][0], plot.y(0)))
    plot.shapes += [Area(area, "soft", 0.6), Line(line, "accent", 1.5)]
    exact = [(at, used) for at, used in zip(machine.at, machine.proportional, strict=True) if used]
    if len(exact) > 1:
        plot.shapes.append(Line(tuple((plot.x(at), plot.y(used)) for at, used in exact), "encode", 1.5))
    plot.shapes += [Dot(plot.x(at), plot.y(used), 3.5, "encode") for at, used in exact]
    words = f"at most {size(max(machine.resident))} resident in all processes"
    if exact:
        words += f", {size(max(used for _, used in exact))} with shared pages counted once, by the dots"
    return plot.drawing("Memory", words)


def cores(figures: Figures, width: float) -> Drawing:
    """The load of each core: one row per core, darker for higher load."""
    machine = figures.machine
    count = min(len(machine.cores[0]), MOST_ROWS)
    height = _ROW if count <= 16 else 8.0
    seconds = max(figures.seconds, 1e-6)

    def x(at: float) -> float:
        return _LEFT + (width - _LEFT - _RIGHT) * min(1.0, at / seconds)

    shades: list[list[Box]] = [[] for _ in range(_SHADES + 1)]
    shapes: list[Shape] = []
    for core in range(count):
        y = _TOP + core * height
        before = 0.0
        for at, busy in zip(machine.at, machine.cores, strict=True):
            shade = round(busy[core] / 100 * _SHADES)
            shades[shade].append((x(before), y + 1, x(at) - x(before) + 0.3, height - 2))
            before = at
        if height == _ROW or core % 8 == 0:
            shapes.append(Text(_LEFT - 8, y + height / 2 + 4, f"core {core}", anchor="end"))
    shapes += [
        Bars(tuple(boxes), "accent", 0.06 + 0.94 * shade / _SHADES)
        for shade, boxes in enumerate(shades)
        if boxes
    ]
    shapes += time_axis(x, seconds, width, _TOP + count * height)
    mean = float(np.mean([busy[:count] for busy in machine.cores]))
    return Drawing(
        "Cores",
        f"{mean:.0f}% busy on the mean, with all that ran on the machine; this run kept "
        f"{(figures.machine.own and sum(figures.machine.own) / len(figures.machine.own)) or 0:.1f} cores busy",
        width,
        _TOP + count * height + _BOTTOM,
        tuple(shapes),
    )


def latency(figures: Figures, width: float) -> Drawing:
    """For each stage: a bar from the median to the maximum, on a logarithmic scale."""
    found = {name: s for name, s in spreads(figures).items() if s.max > 0}
    left = 128.0 if width >= 500 else 126.0
    low = min((math.floor(math.log10(max(s.p50, 1e-6))) for s in found.values()), default=-3)
    high = max((math.ceil(math.log10(max(s.max, 1e-5))) for s in found.values()), default=0)
    high = max(high, low + 1)

    def x(seconds: float) -> float:
        place = (math.log10(max(seconds, 10.0**low)) - low) / (high - low)
        return left + (width - left - _RIGHT - 8) * place

    bottom = _TOP + len(found) * _ROW
    shapes: list[Shape] = []
    step = -(-(high - low) // (4 if width < 500 else 8))
    for power in range(low, high + 1, step):
        at = x(10.0**power)
        shapes.append(Line(((at, _TOP), (at, bottom)), "grid"))
        shapes.append(Text(at, bottom + 18, duration(10.0**power), anchor="middle"))
    for row, (name, s) in enumerate(found.items()):
        y = _TOP + (row + 0.5) * _ROW
        colour = name if name in STAGES else "publish"
        shapes.append(Text(left - 12, y + 4, name, "ink", "end"))
        shapes.append(Line(((x(s.p50), y), (x(s.max), y)), colour, 2))
        shapes.append(Bars(((x(s.p50), y - 5, max(2.0, x(s.p90) - x(s.p50)), 10),), colour))
        shapes.append(Bars(((x(s.p99) - 1, y - 5, 2, 10),), colour))
        shapes.append(Dot(x(s.max), y, 3, colour))
    words = ", ".join(f"{name} {duration(s.p50)}" for name, s in found.items())
    return Drawing(
        "Latency", f"the medians are: {words}" if words else "nothing was done", width, bottom + _BOTTOM,
        tuple(shapes),
    )  # fmt: skip


def workers(figures: Figures, width: float) -> Drawing:
    """For each worker: its time in each stage. It waited for the rest of the run's duration."""
    shown = figures.workers[:MOST_ROWS]
    seconds = max(figures.seconds, 1e-6)
    left = 128.0 if width >= 500 else 112.0

    def x(at: float) -> float:
        return left + (width - left - _RIGHT) * min(1.0, at / seconds)

    boxes: dict[str, list[Box]] = {}
    shapes: list[Shape] = []
    for row, (name, worker) in enumerate(zip(labels([w.name for w in shown]), shown, strict=True)):
        y = _TOP + row * _ROW
        shapes.append(Text(left - 12, y + _ROW / 2 + 4, name, "ink", "end"))
        shapes.append(Bars(((left, y + 3, x(seconds) - left, _ROW - 6),), "grid", 0.6))
        at = 0.0
        for stage, spent in worker.stages.items():
            if spent:
                boxes.setdefault(stage, []).append((x(at), y + 3, x(at + spent) - x(at), _ROW - 6))
                at += spent
    shapes += [Bars(tuple(found), stage) for stage, found in boxes.items()]
    bottom = _TOP + len(shown) * _ROW
    shapes += time_axis(x, seconds, width, bottom)
    words = f"{100 * figures.utilization:.0f}% of the workers' time was busy"
    if figures.imbalance is not None:
        words += f"; the busiest one had {figures.imbalance:.2f} of the mean"
    return Drawing("Workers", words, width, bottom + _BOTTOM, tuple(shapes))


def labels(names: list[str]) -> list[str]:
    """Short names of workers, without the process if there is only one, or without the only thread."""
    processes = [name.partition("/")[0] for name in names]
    if len(names) > 1 and len(set(processes)) == 1:
        return [name.partition("/")[2].replace("_", " ") or name for name in names]
    return [
        f"process {process}" if processes.count(process) == 1 and process.isdecimal() else _cut(name)
        for name, process in zip(names, processes, strict=True)
    ]


def _cut(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:6]}…{name[-8:]}"


def timeline(figures: Figures, recorded: Timeline, width: float) -> Drawing:
    """One row per worker. Each column shows the shares of the stages in its period of time."""
    names = rows(recorded)
    shown = [worker.name for worker in figures.workers][:MOST_ROWS]
    place = {name: row for row, name in enumerate(shown)}
    left, columns = 128.0, int(width / 2)
    total = max(figures.seconds, 1e-6) * 1e6
    stages = (*STAGES, "lost")
    spent = np.zeros((len(shown), len(stages), columns))
    marks: list[tuple[float, int]] = []
    for a in recorded.attempts:
        row = place.get(names[a.worker])
        if row is None or a.made_at == ASSEMBLED:
            continue
        at = float(a.started)
        for number, stage in enumerate(stages):
            length = getattr(a, stage)
            if length:
                spread_over(spent[row, number], at / total * columns, (at + length) / total * columns)
            at += length
        if a.outcome:
            marks.append((at / total, row))
    wide = (width - left - _RIGHT) / columns
    high = 34.0
    shapes: list[Shape] = []
    for row, name in enumerate(labels(shown)):
        shapes.append(Text(left - 12, _TOP + row * high + high / 2 + 4, name, "ink", "end"))
        shapes.append(Bars(((left, _TOP + row * high + 3, wide * columns, high - 6),), "grid", 0.5))
    for number, stage in enumerate(stages):
        boxes = []
        for row in range(len(shown)):
            below = spent[row, :number].sum(axis=0)
            for column in np.flatnonzero(spent[row, number] > 0.004):
                share = min(1.0, float(spent[row, number, column]))
                y = _TOP + row * high + 3 + (high - 6) * (1 - min(1.0, float(below[column]) + share))
                boxes.append((left + float(column) * wide, y, wide, (high - 6) * share))
        if boxes:
            shapes.append(Bars(tuple(boxes), stage))
    shapes += [Dot(left + at * wide * columns, _TOP + row * high + 3, 3, "bad") for at, row in marks[:500]]
    bottom = _TOP + len(shown) * high
    shapes += time_axis(lambda s: left + wide * columns * s * 1e6 / total, figures.seconds, width, bottom)
    return Drawing(
        "Timeline",
        f"what {len(shown)} workers did over {duration(figures.seconds)}; dots are attempts that failed",
        width,
        bottom + _BOTTOM,
        tuple(shapes),
    )


def spread_over(columns: np.ndarray, begin: float, end: float) -> None:
    """Add a bar to the columns that it lies in, to each one the part of the column's width that it covers."""
    begin, end = max(0.0, begin), min(float(len(columns)), end)
    first, last = int(begin), min(int(end), len(columns) - 1)
    if begin >= end:
        return
    if first == last:
        columns[first] += end - begin
        return
    columns[first] += first + 1 - begin
    columns[first + 1 : last] += 1
    columns[last] += end - last
