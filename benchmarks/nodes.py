"""The gRPC service: what it costs against local processes, and what the policies save.

python -m benchmarks.nodes [--photos FOLDER] [--pairs N] [--means N]
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from benchmarks.harness import header, photos_and_camera, repeated, report, run_command, workplace
from imageloom.nodes.scenario import Scenario, nodes_of, run_really

ROWS = (
    ("one of 4 nodes loaded 0.9", (0.0, 0.0, 0.0, 0.9), 0.4),
    ("all idle", (0.0,) * 4, 1.05),
)
CHOICES = ("random", "least-loaded", "two-choices", "weighted")


def overhead(photos: Path | None, pairs: int) -> None:
    with workplace() as folder:
        source, _ = photos_and_camera(photos, folder, folder)
        tenfold = repeated(source, folder / "tenfold", 10)
        header()
        pipeline = "resize 512x512"
        nodes = run_command(pipeline, tenfold, folder / "a", "-j", "2", "--engine", "nodes")
        processes = run_command(
            pipeline, tenfold, folder / "b", "-j", "2", "--engine", "processes", name="processes"
        )
        report("photos ten times over, 2 nodes", "1.15", nodes, processes, pairs)


def policies(means: int) -> None:
    print(
        "\n| 400 tasks | choice | mandatory | optional | ratio | goal |\n|---|---|---|---|---|---|",
        flush=True,
    )
    with workplace() as folder:
        for row, loads, goal in ROWS:
            for choice in CHOICES if loads[-1] else CHOICES[:1]:
                mandatory, optional = both(choice, loads, folder, means)
                ratio = optional / mandatory
                print(
                    f"| {row} | {choice} | {mandatory:.2f} s | {optional:.2f} s | {ratio:.2f} | {goal} |",
                    flush=True,
                )


def both(choice: str, loads: tuple[float, ...], folder: Path, means: int) -> tuple[float, float]:
    """The mean seconds with each acceptance, in turn: a machine's drift hits both alike."""
    mandatory, optional = Scenario("mandatory", choice, loads), Scenario("optional", choice, loads)
    found: list[tuple[float, float]] = []
    with nodes_of(mandatory, folder, 1) as musts, nodes_of(optional, folder, 1) as mays:
        run_really(mandatory, musts, folder, 0)
        run_really(optional, mays, folder, 0)
        for seed in range(means):
            must = run_really(mandatory, musts, folder, seed)
            found.append((must, run_really(optional, mays, folder, seed)))
    return statistics.mean(a for a, _ in found), statistics.mean(b for _, b in found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--means", type=int, default=10)
    given = parser.parse_args()
    overhead(given.photos, given.pairs)
    policies(given.means)
