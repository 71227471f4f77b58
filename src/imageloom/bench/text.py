"""A bench as text: tables of cells, for a terminal, a page and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from imageloom.bench.records import Bench, Cell
from imageloom.bench.table import BEYOND, HEADER, cells, fits, serial_part, table
from imageloom.report.text import count, rate, size

Cells = Sequence[Sequence[str]]


def tables(bench: Bench) -> dict[str, Cells]:
    """All tables by title. The first row of each is its header."""
    found: dict[str, Cells] = {"Engines": [HEADER, *(cells(row) for row in table(bench))]}
    if bench.peers:
        found["Peers"] = [
            ("peer", "workers", "time", "range", "images/s", "CPU"),
            *(
                (
                    *(peer.name, str(peer.workers), f"{median(peer.seconds):.2f} s", _range(peer.seconds)),
                    *(rate(bench.images / median(peer.seconds)), f"{median(peer.cpu):.2f} s"),
                )
                for peer in bench.peers
            ),
        ]
    if bench.sweep:
        best, planned = bench.sweep.best, bench.sweep.planned
        rows = [_cell(cell, "best" if cell == best else "") for cell in bench.sweep.cells]
        found["Tile sizes"] = [
            ("megapixels per tile", "tiles", "workers", "time", "range", ""),
            *rows,
            _cell(planned, "planned, best" if planned == best else "planned"),
        ]
    if bench.faults:
        found["Faults"] = [
            ("way", "workers", "killed", "retries", "done", "failed", "outputs", "time", "without faults"),
            *(
                (
                    *(f.configuration.name, str(f.configuration.workers), str(f.killed), str(f.again)),
                    *(count(f.done), count(f.failed), "all, equal" if f.equal else "WRONG"),
                    *(
                        f"{f.seconds:.2f} s",
                        _undisturbed(bench, f.configuration.name, f.configuration.workers),
                    ),
                )
                for f in bench.faults
            ),
        ]
    return found


def _cell(cell: Cell, mark: str) -> tuple[str, ...]:
    return (
        *(f"{cell.pixels / 1e6:g}", str(cell.parts or "whole"), str(cell.workers)),
        *(f"{median(cell.seconds):.2f} s", _range(cell.seconds), mark),
    )


def _range(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else "once"


def _undisturbed(bench: Bench, name: str, workers: int) -> str:
    found = bench.find(name, workers)
    return f"{found.seconds:.2f} s" if found else "–"


def notes(bench: Bench) -> dict[str, str]:
    """Notes on the tables, by title."""
    cores = bench.machine.cores
    found = {
        "Engines": f"Times are of whole programs, {_rounds(bench)}. Start: a run over one small photo. "
        f"{BEYOND}: more workers than the {cores} cores. Serial part: by Karp and Flatt, relative to the same "
        "way with one worker; slower: more workers took longer than one; under 0%: they were faster than the law "
        "allows. CPU: user and system time of all processes. Memory: peak of all processes "
        "together, with shared pages counted once, in a separate run. An image: its stages, without waits."
    }
    if parts := fits(bench):
        words = ", ".join(f"{name} {serial_part(part)}" for name, part in parts.items())
        found["Speed-up"] = f"Amdahl's serial part, fitted to the times up to {cores} workers: {words}."
    if bench.sweep:
        sweep = bench.sweep
        best = ", the best" if sweep.best == sweep.planned else f". Best: {_words(sweep.best)}"
        found["Tile sizes"] = (
            f"{sweep.pipeline} over one drawn JPEG of {sweep.width}x{sweep.height}, threads. Planned: "
            f"{_words(sweep.planned)}{best}."
        )
    if bench.faults:
        found["Faults"] = (
            "Workers are killed with SIGKILL during the run, and the outputs are compared with those of serial. "
            "Retries: attempts that were lost with a worker. Tasks that were not started yet cost no attempt."
        )
    return found


def _rounds(bench: Bench) -> str:
    counts = {len(one.runs) for one in bench.measured}
    if counts == {1}:
        return "of a single round"
    least, most = min(counts), max(counts)
    return f"medians of {most} rounds" if least == most else f"medians of {least} to {most} rounds"


def _words(cell: Cell) -> str:
    if not cell.parts:
        return f"without tiles, with {cell.workers} workers, {median(cell.seconds):.2f} s"
    return (
        f"{cell.pixels / 1e6:g} megapixels per tile ({cell.parts} tiles) with {cell.workers} workers, "
        f"{median(cell.seconds):.2f} s"
    )


def summary(bench: Bench) -> str:
    """The bench for a terminal."""
    lines = [f"{bench.pipeline}: {photos(bench)}", f"{machine(bench)}"]
    said = notes(bench)
    for title, rows in tables(bench).items():
        lines += ["", title, *_aligned(rows)]
        lines += [f"  {said[title]}"] if title in ("Tile sizes",) else []
        lines += [f"  {said['Speed-up']}"] if title == "Engines" and "Speed-up" in said else []
    lines += ["", *(f"not run: {name}: {reason}" for name, reason in bench.missing.items())]
    lines += [f"WRONG: {label}: {reason}" for label, reason in bench.wrong.items()]
    return "\n".join(lines).rstrip()


def photos(bench: Bench) -> str:
    """A description of the photos."""
    kind = ("drawn photo" if bench.drawn else "photo") + ("s" if bench.images != 1 else "")
    links = "" if bench.different == bench.images else f", {count(bench.different)} different ones"
    return f"{count(bench.images)} {kind}{links}, {size(bench.bytes)}"


def machine(bench: Bench) -> str:
    """A description of the machine."""
    m = bench.machine
    versions = ", ".join(f"{name} {number}" for name, number in m.versions.items())
    return f"{m.processor}, {m.cores} cores, {size(m.memory)}, {m.system}; {versions}"


def _aligned(rows: Cells) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *rest = (
            cell.ljust(w) if n == 0 else cell.rjust(w)
            for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        yield "  " + "  ".join((first, *rest)).rstrip()


def markdown(rows: Cells) -> str:
    """A table in Markdown."""
    header, *rest = rows
    lines = [header, ["---", *("---:" for _ in header[1:])], *rest]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
