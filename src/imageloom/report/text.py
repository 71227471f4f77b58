"""Figures as text: numbers with units, the summary for a terminal, the table of attempts as CSV."""

from __future__ import annotations

from collections.abc import Iterator

from imageloom.model import STAGES
from imageloom.records.losses import counted
from imageloom.records.timeline import Timeline
from imageloom.report.figures import Figures, Spread, rows
from imageloom.system.printable import csv_line, printable

_OUTCOMES = ("done", "retried", "failed")
_MADE_AT = ("item", "part", "assembled")


def duration(seconds: float) -> str:
    """A duration in a suitable unit: 412 µs, 3.1 ms, 4.25 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(number: float) -> str:
    """Bytes: 812 B, 3.1 kB, 4.25 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def count(number: float) -> str:
    return f"{number:,.0f}"


def rate(number: float) -> str:
    """Items per second."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def spreads(figures: Figures) -> dict[str, Spread]:
    """The stages and waiting times in their order for an item."""
    waits = figures.waits
    return {
        "wait for a worker": waits["for a worker"],
        **{stage: figures.stages[stage] for stage in STAGES},
        "wait for the driver": waits["for the driver"],
        "publish": figures.stages["publish"],
    }


def facts(figures: Figures) -> dict[str, str]:
    """The job and its results, as names with texts."""
    f = figures
    versions = ", ".join(f"{name} {version}" for name, version in f.versions.items())
    return {
        "Pipeline": f.pipeline,
        "Source": f.source,
        "Sink": f.sink,
        "Engine": f"{f.engine}, {f.workers_planned} workers on {f.cores} cores ({f.system})",
        "Versions": versions or "not recorded: the run was killed",
        "Read": f"{size(f.read_bytes)}, {count(f.pixels / 1e6)} megapixels decoded",
        "Written": size(f.written_bytes),
        **({"Skipped": f"{count(f.skipped)} items that were already done"} if f.skipped else {}),
    }


def summary(figures: Figures) -> str:
    """The report for a terminal."""
    f = figures
    lines = [
        f"job {f.job}: {f.state}, {duration(f.seconds)}, {f.engine} with {f.workers_planned} workers",
        f"  {printable(f.pipeline)}",
        f"  {printable(f.source)} -> {printable(f.sink)}",
        f"  {count(f.done)} done, {count(f.failed)} failed, {count(f.skipped)} skipped, "
        f"{count(f.retries)} retries, {count(f.deaths)} workers lost",
        f"  {rate(f.rate)} items/s, {size(f.read_bytes)} read, {size(f.written_bytes)} written",
        "",
        f"  {'':<20}{'p50':>9}{'p90':>9}{'p99':>9}{'max':>9}{'sum':>12}",
    ]
    for name, s in {**spreads(f), "item, all stages": f.item}.items():
        values = "".join(f"{duration(value):>9}" for value in (s.p50, s.p90, s.p99, s.max))
        lines.append(f"  {name:<20}{values}{duration(s.total):>12}")
    lines.append("")
    busy = f"  workers {100 * f.utilization:.0f}% busy"
    if f.imbalance is not None:
        busy += f", imbalance {f.imbalance:.2f} (busiest worker / mean)"
    lines.append(busy)
    lines += [f"  {number} failed: {printable(kind)}" for kind, number in f.kinds.items()]
    if f.dropped:
        lines.append(f"  lost: {counted(f.dropped)}")
    if damaged := sum(bool(item.warnings) for item in f.losses):
        lines.append(f"  {count(damaged)} damaged")
    return "\n".join(lines)


def table(timeline: Timeline) -> Iterator[str]:
    """Every attempt as a line of CSV, after a header line. Times are in seconds from the start of the run."""
    names = rows(timeline)
    durations = (*STAGES, "publish")
    yield csv_line(
        [
            *("key", "part", "of", "attempt", "outcome", "worker", "submitted", "started"),
            *durations,
            *("collected", "bytes_read", "bytes_written", "pixels", "failure", "reason"),
        ]
    )
    for a in timeline.attempts:
        yield csv_line(
            [
                a.key,
                a.part,
                _MADE_AT[a.made_at],
                a.number,
                _OUTCOMES[a.outcome],
                names[a.worker],
                a.submitted / 1e6 if a.submitted >= 0 else "",
                a.started / 1e6,
                *(getattr(a, stage) / 1e6 for stage in durations),
                a.collected / 1e6,
                a.size,
                a.written,
                a.pixels,
                a.kind,
                a.reason,
            ]
        )
