"""What recording the timeline costs: CPU time of the same run with and without it, alternating.

    python -m benchmarks.recording [--photos FOLDER] [--pairs 15] [--engine threads]

The photos are done ten times over; without a folder of real ones, drawn ones are used.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

from benchmarks.harness import alternate, photos_and_camera, repeated, run_command, workplace
from imageloom.bench.programs import Taken


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
            with_it, without = alternate(on, off, given.pairs)
            for what in ("cpu", "seconds"):
                print(_row(engine, what, with_it, without), flush=True)
            made = next((folder / "timelines" / "on").glob("*.timeline"))
            count = sum(1 for _ in many.iterdir())
            print(f"{engine}: {made.stat().st_size / count:.0f} bytes an item", flush=True)


def _row(engine: str, what: str, with_it: list[Taken], without: list[Taken]) -> str:
    ratios = sorted(getattr(a, what) / getattr(b, what) for a, b in zip(with_it, without, strict=True))
    middle = median(getattr(usage, what) for usage in without)
    return (
        f"{engine}: {what} with recording / without: {median(ratios):.3f} "
        f"({ratios[0]:.3f} to {ratios[-1]:.3f}), without: {middle:.2f} s"
    )


if __name__ == "__main__":
    main()
