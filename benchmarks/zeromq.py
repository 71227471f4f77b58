"""Engine zeromq against dask.distributed (empty tasks) and against the engine `processes` (photos).

    python -m benchmarks.zeromq [--photos FOLDER] [--pairs 5] [--tasks 5000]

Needs `pip install distributed`. Without a folder of real photos, drawn ones are used.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import header, repeated, report, run_command, workplace
from imageloom.bench.samples import draw_photos
from imageloom.engines import Settings, open_engine
from imageloom.model import Limits, Output, Recipe, Task

WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="small photos, all JPEG")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=5000, help="empty ones, in each batch")
    given = parser.parse_args()
    with workplace() as folder:
        empty_tasks(given.tasks, given.pairs, folder)
        photos = given.photos
        if photos is None:
            draw_photos(photos := folder / "photos", 1200)
        many = repeated(photos, folder / "many", 10)
        ours, theirs = (
            run_command(
                "resize 512x512", many, folder / name, f"-j{WORKERS}", "--engine", name, name=f"engine {name}"
            )
            for name in ("zeromq", "processes")
        )
        print()
        header()
        report("photos ten times over -> 512x512", "1.10", ours, theirs, given.pairs)


def empty_tasks(count: int, pairs: int, folder: Path) -> None:
    """Batches of tasks without anything to do, through both in turn; start-up does not count."""
    from distributed import Client, LocalCluster

    engine = open_engine("zeromq", Settings(WORKERS))
    task = Task(1, "1", str(folder), str(folder), Recipe((Output(()),)), Limits(), ())

    def ours() -> None:
        for future in [engine.submit(task) for _ in range(count)]:
            future.result()

    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):

        def theirs() -> None:
            client.gather([client.submit(_nothing, number, pure=False) for number in range(count)])

        ours()
        theirs()
        times = [(_seconds(ours), _seconds(theirs)) for _ in range(pairs)]
    engine.close()
    a, b = (statistics.median(column) / count * 1e6 for column in zip(*times, strict=True))
    ratios = sorted(x / y for x, y in times)
    print(
        f"{count:,} empty tasks, {WORKERS} workers: zeromq {a:.0f} us each, dask.distributed {b:.0f} us each; "
        f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), goal 0.5"
    )


def _nothing(number: int) -> None:
    """An empty task."""


def _seconds(function: Callable[[], None]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
