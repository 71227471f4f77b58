"""What recording the timeline costs: CPU time of the same run with and without it, alternating.

    python -m benchmarks.recording [--photos FOLDER] [--pairs 15] [--engine threads]

The photos are done ten times over; without a folder of real ones, drawn ones are used. A machine may drift by more
than what is looked for, so that the recorder's own CPU time is counted too, and held against the whole run's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median

from benchmarks.harness import (
    IMAGELOOM,
    Program,
    photos_and_camera,
    repeated,
    run_command,
    time_once,
    workplace,
)
from imageloom.bench.programs import Taken

COUNTED = 5
"""Runs in which the recorder's own CPU time is counted."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="small photos, all JPEG")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--times", type=int, default=10, help="how often each photo is done")
    parser.add_argument("--engine", action="append", help="repeatable; by default threads and processes")
    given = parser.parse_args()
    with workplace() as folder:
        photos, _ = photos_and_camera(given.photos, Path(), folder)
        many = repeated(photos, folder / "many", given.times)
        for engine in given.engine or ("threads", "processes"):
            flags = ("-j2", "--engine", engine)
            on = run_command("resize 512x512", many, folder / "on", *flags)
            off = run_command("resize 512x512", many, folder / "off", *flags, "--no-timeline")
            pairs: list[tuple[Taken, Taken]] = []
            for number in range(given.pairs + 1):
                pair = time_once(on), time_once(off)
                if number:  # the first one warms up
                    pairs.append(pair)
                    a, b = pair
                    print(
                        f"{engine}: {a.cpu:.2f} s of CPU, without {b.cpu:.2f}: {a.cpu / b.cpu:.3f}",
                        flush=True,
                    )
            for what in ("cpu", "seconds"):
                print(_row(engine, what, pairs), flush=True)
            made = next((folder / "timelines" / "on").glob("*.timeline"))
            count = sum(1 for _ in many.iterdir())
            print(_counted(engine, on, folder / "seconds"), flush=True)
            print(f"{engine}: {made.stat().st_size / count:.0f} bytes an item", flush=True)


def _counted(engine: str, on: Program, file: Path) -> str:
    """The recorder's share of the CPU time, by its threads' own clocks."""
    command = [sys.executable, "-m", "benchmarks.counted", str(file), *on.command[len(IMAGELOOM) :]]
    found = []
    for _ in range(COUNTED):
        cpu = time_once(on._replace(command=command)).cpu
        found.append((float(file.read_text()), cpu))
    shares = sorted(own / cpu for own, cpu in found)
    own, cpu = (median(each) for each in zip(*found, strict=True))
    return (
        f"{engine}: the recorder's own CPU time / all: {median(shares):.4f} "
        f"({shares[0]:.4f} to {shares[-1]:.4f}, {COUNTED} runs), {own:.2f} s of {cpu:.2f} s"
    )


def _row(engine: str, what: str, pairs: list[tuple[Taken, Taken]]) -> str:
    ratios = sorted(getattr(a, what) / getattr(b, what) for a, b in pairs)
    middle = median(getattr(without, what) for _, without in pairs)
    return (
        f"{engine}: {what} with recording / without: {median(ratios):.3f} "
        f"({ratios[0]:.3f} to {ratios[-1]:.3f}, {len(pairs)} pairs), without: {middle:.2f} s"
    )


if __name__ == "__main__":
    main()
