"""What each command costs as the number of items grows, with tiny images: wall seconds, CPU seconds, memory.

    python -m benchmarks.growth [--items 1000,10000,100000]

A cost that grows faster than the number of items shows as a ratio above ten from one column to the next.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import IMAGELOOM, Program, time_once, workplace
from benchmarks.memory import fill
from imageloom.bench.programs import Taken
from imageloom.bench.samples import draw_photo
from imageloom.codecs import get
from imageloom.model import Encoding

PIPELINE = "flip"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", default="1000,10000,100000")
    sizes = [int(text) for text in parser.parse_args().items.split(",")]
    data = get("jpeg").encode(draw_photo(0, 8, 8), Encoding(90))
    with workplace() as folder:
        columns = [measure(fill(folder / f"in-{size}", data, size), folder / str(size)) for size in sizes]
    print("| command | " + " | ".join(f"{size:,} items: s, CPU s, MB" for size in sizes) + " |")
    print("|---|" + "---|" * len(sizes))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(_cell(column[name]) for column in columns) + " |")


def _cell(taken: Taken) -> str:
    return f"{taken.seconds:.2f}, {taken.cpu:.2f}, {taken.resident / 1e6:.0f}"


def measure(source: Path, place: Path) -> dict[str, Taken]:
    """What each command takes over one source, in the order in which people use them."""
    place.mkdir()
    ledger = ("--ledger", str(place / "ledger.db"))

    def run(sink: str, *flags: str, verb: str = "run") -> Program:
        base = [*IMAGELOOM, verb, PIPELINE, str(source), str(place / sink), "-q"]
        command = [*base, *(() if "--ledger" in flags else ledger), *flags]
        return Program(" ".join((verb, *flags)), command)

    def job(verb: str, *words: str) -> Program:
        return Program(verb, [*IMAGELOOM, verb, *ledger, *words])

    steps: dict[str, Callable[[], Program]] = {
        "first run": lambda: run("out"),
        "nothing to do": lambda: run("out"),
        "--dry-run": lambda: run("new", "--dry-run"),
        "--retry-failed, none failed": lambda: run("out", "--retry-failed"),
        "--if-exists skip, a new ledger": lambda: run(
            "out", "--if-exists", "skip", "--ledger", str(place / "other.db")
        ),
        "resume after kill -9 at half": lambda: _killed_at_half(run("half"), place / "half", source),
        "watch, all done before": lambda: run("out", "--until-idle", "0", verb="watch"),
        "jobs": lambda: job("jobs"),
        "jobs show": lambda: job("jobs", "show", "1"),
        "report": lambda: job("report", "1", "--json"),
    }
    return {name: time_once(step()) for name, step in steps.items()}


def _killed_at_half(program: Program, sink: Path, source: Path) -> Program:
    """The same program, after it was killed when half of its outputs were there."""
    half = sum(1 for _ in source.iterdir()) // 2
    running = subprocess.Popen(program.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None and (not sink.exists() or sum(1 for _ in sink.iterdir()) < half):
        pass
    running.send_signal(signal.SIGKILL)
    running.wait()
    return program


if __name__ == "__main__":
    main()
