"""The pools that size themselves, against the best fixed size that a sweep finds; and the engine against others.

    python -m benchmarks.pipeline [--photos FOLDER] [--rounds 5]

One job waits: 20 milliseconds are added to each read. One works: nothing is added.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.harness import fresh, photos_and_camera, repeated, workplace
from imageloom.driver.run import Driver
from imageloom.engines import Engine, Settings, open_engine
from imageloom.engines.pipeline.engine import STAGES, Pipeline
from imageloom.engines.pipeline.stage import load
from imageloom.model import Job, Output, Recipe, Result, Task
from imageloom.recipes.pipeline import Pipeline as Steps
from imageloom.records.ledger import Ledger
from imageloom.worker.items import Chunk, Lap

DELAY = 0.02
"""Seconds that are added to each read."""
SWEEPS = {
    "I/O-bound": [(loaders, 2) for loaders in (8, 12, 16, 24, 32)],
    "CPU-bound": [(loaders, others) for loaders in (1, 2, 4) for others in (1, 2)],
}
"""Threads of the loader, and of each other stage."""


def late_load(task: Task, chunk: Chunk | None, lap: Lap) -> Chunk | Result:
    """The first stage, from a store that takes its time."""
    time.sleep(DELAY)
    return load(task, chunk, lap)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="small photos, all JPEG")
    parser.add_argument("--times", type=int, default=2, help="how often each photo is done")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    settings = Settings(given.workers)
    with workplace() as folder:
        photos, _ = photos_and_camera(given.photos, Path(), folder)
        photos = repeated(photos, folder / "many", given.times)
        for name, sweep in SWEEPS.items():
            stages = ("benchmarks.pipeline:late_load" if name == "I/O-bound" else STAGES[0], *STAGES[1:])
            engines = {"self-sizing": partial(Pipeline, settings, stages)}
            for loaders, others in sweep:
                sizes = [(loaders,) * 3, (others,) * 3, (others,) * 3]
                engines[f"{loaders}, {others}, {others}"] = partial(Pipeline, settings, stages, sizes)
            times = alternate(engines, photos, folder / "out", given.rounds)
            best = min((label for label in times if label != "self-sizing"), key=lambda one: times[one])
            print(f"{name}: {times['self-sizing'] / times[best]:.2f} of the best fixed size ({best})")
            print(
                "  " + "; ".join(f"{label}: {seconds:.2f} s" for label, seconds in times.items()), flush=True
            )
        named = {name: partial(open_engine, name, settings) for name in ("pipeline", "processes", "threads")}
        times = alternate(named, photos, folder / "out", given.rounds)
        print("engines: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items()))


def alternate(
    engines: Mapping[str, Callable[[], Engine]], photos: Path, out: Path, rounds: int
) -> dict[str, float]:
    """The median of each one's seconds, with its start; all of them in turn, once to warm up."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds + 1):
        for name, begin in engines.items():
            times[name].append(once(begin, photos, out))
    return {name: median(seconds[1:]) for name, seconds in times.items()}


def once(begin: Callable[[], Engine], photos: Path, out: Path) -> float:
    fresh(out)
    job = Job(str(photos), str(out), Recipe((Output(Steps("resize 512x512").steps),)))
    began = time.perf_counter()
    with closing(begin()) as engine, Ledger(f"{out}.db") as ledger:
        summary = Driver(job, engine, ledger).run()
    if summary.failed:
        raise SystemExit(f"{summary.failed} failed")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
