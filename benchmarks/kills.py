"""What a job of a minute costs with a worker killed every two seconds, against undisturbed: `imageloom chaos`.

    python -m benchmarks.kills [--photos FOLDER] [--engine redis ...] [--seconds 60] [--every 2]

Without a folder of real photos, drawn ones are used. The job is sized by a run of a part of it. All outputs are
compared with those of the engine serial, which does the same job before.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.harness import repeated, run_command, time_once, workplace
from imageloom.bench.samples import draw_photos
from imageloom.bench.work import link
from imageloom.chaos import run_chaos
from imageloom.chaos.model import Chaos

PIPELINE = "median_blur 21 | resize 64x64"
"""Work with outputs so small that many of them fit on any disk."""
GOAL = 2.0
SAMPLE = 200
"""Photos of the run that sizes the job."""
WORKERS = 2
PATIENCE = 1800.0
"""Seconds for which workers are killed, at the most."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="small photos, all JPEG")
    parser.add_argument("--engine", action="append", help="repeatable; by default redis and zeromq")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the job, undisturbed")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two kills, on the average")
    given = parser.parse_args()
    print("| engine | items | goal | ratio | disturbed, undisturbed | workers killed | wrong |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for engine in given.engine or ["redis", "zeromq"]:
        with workplace() as folder:
            photos = given.photos or folder / "photos"
            if given.photos is None:
                draw_photos(photos, SAMPLE)
            measure(engine, sized(engine, photos, folder, given.seconds), 1 / given.every)


def sized(engine: str, photos: Path, folder: Path, seconds: float) -> Path:
    """A folder of photos that take so long."""
    sample, one = folder / "sample", folder / "one"
    for place, count in ((sample, SAMPLE), (one, 1)):
        place.mkdir()
        for file in sorted(photos.iterdir())[:count]:
            link(file, place / file.name)
    out = folder / "out"
    flags = ("--engine", engine, f"-j{WORKERS}")
    start = time_once(run_command(PIPELINE, one, out, *flags)).seconds
    item = (time_once(run_command(PIPELINE, sample, out, *flags)).seconds - start) / SAMPLE
    return repeated(sample, folder / "many", max(1, round((seconds - start) / item / SAMPLE)))


def measure(engine: str, source: Path, rate: float) -> None:
    chaos = Chaos(PIPELINE, str(source), engine, {"kill-workers": rate}, WORKERS, PATIENCE, runs=1)
    report = run_chaos(chaos)
    wrong = "; ".join(report.problems) or "nothing"
    print(
        f"| {engine} | {report.outputs:,} | {GOAL} | {report.cost:.2f} | {report.disturbed:.1f} s, "
        f"{report.undisturbed:.1f} s | {report.fired['kill-workers']} | {wrong} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
