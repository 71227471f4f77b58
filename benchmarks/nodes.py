"""The gRPC service: what it costs against local processes, what the policies save, how jobs share the nodes.

python -m benchmarks.nodes [--photos FOLDER] [--pairs N] [--means N] [--rounds N]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Barrier

from benchmarks.harness import IMAGELOOM, header, photos_and_camera, repeated, report, run_command, workplace
from imageloom.bench.scenario import Scenario, nodes_of, run_really
from imageloom.engines.nodes.config import Credentials
from imageloom.model import Job, Output, Recipe
from imageloom.recipes.pipeline import Pipeline
from imageloom.service.client import Client

ROWS = (
    ("one of 4 nodes loaded 0.9", (0.0, 0.0, 0.0, 0.9), 0.4),
    ("all idle", (0.0,) * 4, 1.05),
)
JOBS = 8
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


def fairness(photos: Path | None, rounds: int) -> None:
    """How far apart equal jobs end that clients of one server send together."""
    print("\n| equal jobs at once | goal | last / first to end | s |\n|---|---|---|---|", flush=True)
    with workplace() as folder, ExitStack() as stack:
        source, _ = photos_and_camera(photos, folder, folder)
        root = ("--root", str(folder), "--root", str(source))
        state = ("--state", str(folder / "state"), "--ledger", str(folder / "ledger.db"))
        server = stack.enter_context(service("server", "--listen", "127.0.0.1:0", *root, *state))
        for _ in range(2):
            stack.enter_context(service("node", "--server", server, "--limit", "1", *root))
        for number in range(rounds):
            ends = sorted(jobs_at_once(server, source, folder / f"round{number}"))
            print(
                f"| {JOBS} jobs, 2 nodes | 1.3 | {ends[-1] / ends[0]:.2f} | {ends[0]:.2f} to {ends[-1]:.2f} |",
                flush=True,
            )


@contextmanager
def service(*arguments: str) -> Iterator[str]:
    """A server or a node as a process, by its address."""
    process = subprocess.Popen([*IMAGELOOM, *arguments], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        yield process.stderr.readline().split()[1].rstrip(":")
    finally:
        process.terminate()
        process.communicate(timeout=30)


def jobs_at_once(server: str, source: Path, sinks: Path) -> list[float]:
    """The seconds that each of the jobs takes, of which each client sends one."""
    together = Barrier(JOBS)

    def submit(number: int) -> float:
        recipe = Recipe((Output(Pipeline.parse("resize 512x512").steps),))
        job = Job(str(source), str(sinks / str(number)), recipe)
        with closing(Client(server, Credentials())) as client:
            together.wait()
            began = time.perf_counter()
            receipt = client.submit(job)
            seconds = time.perf_counter() - began
        if receipt.exit_code:
            raise SystemExit(f"a job failed: {receipt.message}")
        return seconds

    with ThreadPoolExecutor(JOBS) as pool:
        return list(pool.map(submit, range(JOBS)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--means", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3, help="of jobs at once")
    given = parser.parse_args()
    if given.pairs:
        overhead(given.photos, given.pairs)
    if given.means:
        policies(given.means)
    if given.rounds:
        fairness(given.photos, given.rounds)
