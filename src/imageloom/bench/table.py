"""The table of a bench: one row per configuration, computed from the measurements."""

from __future__ import annotations

from imageloom.bench import laws
from imageloom.bench.records import Bench, Measured
from imageloom.model import Plain
from imageloom.report.figures import Spread
from imageloom.report.text import duration, rate, size


class Row(Plain, frozen=True):
    """The figures of a configuration. Times are medians, of whole programs."""

    name: str
    workers: int
    beyond: bool
    """Whether it has more workers than the machine has cores."""
    seconds: float
    least: float
    most: float
    start: float
    """Seconds for a run over one photo."""
    rate: float
    """Images per second."""
    speedup: float
    """Time of the engine serial divided by this time."""
    efficiency: float
    """Speed-up divided by the number of workers."""
    serial: float | None
    """Serial fraction by Karp and Flatt, relative to the same engine with one worker."""
    cpu: float
    overhead: float
    """Additional CPU time, as a fraction of that of the engine serial."""
    memory: int
    item: Spread
    stay: Spread


def table(bench: Bench) -> list[Row]:
    """All rows, in the order of their measurement."""
    return [_row(bench, measured) for measured in bench.measured]


def _row(bench: Bench, measured: Measured) -> Row:
    way = measured.configuration
    serial, alone = bench.serial, bench.find(way.name, 1)
    assert serial is not None
    speedup = serial.seconds / measured.seconds
    return Row(
        name=way.name,
        workers=way.workers,
        beyond=way.workers > bench.machine.cores,
        seconds=measured.seconds,
        least=min(run.seconds for run in measured.runs),
        most=max(run.seconds for run in measured.runs),
        start=measured.start,
        rate=bench.images / measured.seconds,
        speedup=speedup,
        efficiency=speedup / way.workers,
        serial=laws.karp_flatt(alone.seconds / measured.seconds, way.workers) if alone else None,
        cpu=measured.cpu,
        overhead=measured.cpu / serial.cpu - 1,
        memory=measured.memory,
        item=measured.item,
        stay=measured.stay,
    )


def fits(bench: Bench) -> dict[str, float]:
    """The serial fraction of each way, by Amdahl's law, from its times with at most as many workers as cores."""
    found = {}
    for name in dict.fromkeys(m.configuration.name for m in bench.measured):
        times = {
            m.configuration.workers: m.seconds
            for m in bench.measured
            if m.configuration.name == name and m.configuration.workers <= bench.machine.cores
        }
        part = laws.fit(times)
        if part is not None:
            found[name] = part
    return found


HEADER = (
    "way",
    "workers",
    "time",
    "range",
    "start",
    "images/s",
    "speed-up",
    "efficiency",
    "serial part",
    "CPU",
    "over serial",
    "memory",
    "image p50",
    "p90",
    "p99",
)
BEYOND = "*"
"""Marks configurations with more workers than cores."""


def serial_part(part: float) -> str:
    """A serial fraction as text. One above 1 or below 0 is no fraction of the work."""
    if part > 1:
        return "slower"
    return "under 0%" if part < -0.005 else f"{max(0.0, 100 * part):.0f}%"


def cells(row: Row) -> tuple[str, ...]:
    """The cells of a row as text, in the order of `HEADER`."""
    return (
        row.name,
        f"{row.workers}{BEYOND if row.beyond else ''}",
        f"{row.seconds:.2f} s",
        f"{row.least:.2f} to {row.most:.2f}" if row.least < row.most else "once",
        f"{row.start:.2f} s",
        rate(row.rate),
        f"{row.speedup:.2f}",
        f"{100 * row.efficiency:.0f}%",
        "–" if row.serial is None else serial_part(row.serial),
        f"{row.cpu:.2f} s",
        f"{100 * row.overhead:+.0f}%",
        size(row.memory) if row.memory else "–",
        duration(row.item.p50),
        duration(row.item.p90),
        duration(row.item.p99),
    )
