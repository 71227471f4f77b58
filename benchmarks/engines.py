"""Engines that work over other transports, against the processes of this machine.

    python -m benchmarks.engines [--photos FOLDER] [--pairs 5] [--workers 2] [--engine NAME ...]

What an engine takes to start and to end is measured apart, by runs over a single photo, and taken off.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from benchmarks.harness import Program, repeated, run_command, time_once, workplace
from imageloom.bench.samples import draw_photos

GOALS = {"zeromq": 1.10, "redis": 1.15, "mpi": 1.15, "dask": 1.30, "nodes": 1.15}
"""Of the time of `processes`, start-up apart."""
AGAINST = "processes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="small photos, all JPEG; each is done ten times")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engine", action="append", choices=list(GOALS), help="repeatable; by default all")
    given = parser.parse_args()
    with workplace() as folder:
        photos = given.photos or folder / "photos"
        if given.photos is None:
            draw_photos(photos, 1200)
        many = repeated(photos, folder / "many", 10)
        (folder / "one").mkdir()
        first = next(iter(sorted(many.iterdir())))
        (folder / "one" / first.name).write_bytes(first.read_bytes())
        print(
            "| engine | goal | ratio: median of pairs (range) | s | start and end, s | processes: s, start |"
        )
        print("|---|---|---|---|---|---|")
        for engine in given.engine or GOALS:
            measure(engine, folder, given.pairs, given.workers)


def measure(engine: str, folder: Path, pairs: int, workers: int) -> None:
    """Print a row: an engine and `processes` in turn, each with its start-up just before."""
    found = []
    for number in range(pairs + 1):
        pair = [timed(name, folder, workers) for name in (engine, AGAINST)]
        if number:  # the first one warms up
            found.append(pair)
    ratios = sorted(ours[0] / theirs[0] for ours, theirs in found)
    work, start, work_, start_ = (statistics.median(p[i][j] for p in found) for i in (0, 1) for j in (0, 1))
    print(
        f"| {engine} | {GOALS[engine]:.2f} | {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f}) | {work:.2f} | {start:.2f} | {work_:.2f}, {start_:.2f} |",
        flush=True,
    )


def timed(engine: str, folder: Path, workers: int) -> tuple[float, float]:
    """Seconds for the work alone, and for a run over one photo."""
    start = time_once(program(engine, folder / "one", folder, workers)).seconds
    return time_once(program(engine, folder / "many", folder, workers)).seconds - start, start


def program(engine: str, source: Path, folder: Path, workers: int) -> Program:
    return run_command("resize 512x512", source, folder / "out", "--engine", engine, f"-j{workers}")


if __name__ == "__main__":
    main()
