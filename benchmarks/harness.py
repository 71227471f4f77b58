"""Times whole programs in turn and says the ratio pair by pair: a machine's drift hits both alike."""

from __future__ import annotations

import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from imageloom.bench.peers import SCRIPTS
from imageloom.bench.programs import Taken, take
from imageloom.bench.samples import draw_photo, draw_photos
from imageloom.bench.work import link, set_aside
from imageloom.codecs import get
from imageloom.model import Encoding

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a program that is installed has its byte code

PEERS = Path(__file__).parent / "peers"
PYTHON = sys.executable
IMAGELOOM = [PYTHON, "-m", "imageloom"]


class Program(NamedTuple):
    """A command, and what makes each run a fresh one."""

    name: str
    command: Sequence[str]
    prepare: Callable[[], object] = lambda: None


def time_once(program: Program) -> Taken:
    """Run a program once; its output is thrown away, its failure is ours."""
    program.prepare()
    taken = take(program.command)
    if taken.code:
        raise SystemExit(f"{program.name} failed with {taken.code}: {taken.errors}")
    return taken


def alternate(ours: Program, theirs: Program, pairs: int) -> tuple[list[Taken], list[Taken]]:
    """Run both in turn, once to warm up and then `pairs` times."""
    time_once(ours)
    time_once(theirs)
    found = [(time_once(ours), time_once(theirs)) for _ in range(pairs)]
    return [a for a, _ in found], [b for _, b in found]


def report(row: str, goal: str, ours: Program, theirs: Program, pairs: int) -> float:
    """Print a row: medians, and the median of the ratios of the pairs with their range."""
    a, b = alternate(ours, theirs, pairs)
    ratios = sorted(x.seconds / y.seconds for x, y in zip(a, b, strict=True))
    ratio = statistics.median(ratios)
    ours_s, theirs_s = (statistics.median(u.seconds for u in used) for used in (a, b))
    print(
        f"| {row} | {theirs.name} | {goal} | {ratio:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | "
        f"{ours_s:.2f} s, {theirs_s:.2f} s |",
        flush=True,
    )
    return ratio


def header() -> None:
    print(
        "| work | against | goal | ratio: median of pairs (range) | medians |\n|---|---|---|---|---|",
        flush=True,
    )


@contextmanager
def workplace() -> Iterator[Path]:
    """A temporary folder for inputs, outputs and ledgers. It goes, and servers end, where the bench is told to."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="imageloom-bench-") as folder:
        yield Path(folder)


def repeated(source: Path, target: Path, times: int) -> Path:
    """A folder with each file of another one several times over, by hard links or copies."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        for turn in range(times):
            copy = target / f"{turn:02}-{file.name}"
            if copy.exists():
                continue
            link(file, copy)
    return target


def run_command(pipeline: str, source: Path, out: Path, *flags: str, name: str = "imageloom") -> Program:
    """`imageloom run` into an empty sink with a new ledger."""

    ledger = f"{out}.db"
    return Program(
        name,
        [*IMAGELOOM, "run", pipeline, str(source), str(out), "--ledger", ledger, *flags],
        lambda: fresh(out),
    )


def fresh(out: Path) -> None:
    """No sink, and no memory of one."""
    set_aside(out)
    for file in out.parent.glob(f"{out.name}.db*"):
        file.unlink()


def photos_and_camera(photos: Path | None, camera: Path | None, folder: Path) -> tuple[Path, Path]:
    """The given folders of real photos, or drawn ones."""
    if photos is None:
        draw_photos(photos := folder / "photos", 1200)
    if camera is None:
        (camera := folder / "camera").mkdir()
        for seed in range(8):
            (camera / f"{seed}.jpg").write_bytes(
                get("jpeg").encode(draw_photo(seed, 4896, 3264), Encoding(90))
            )
    return photos, camera


def peer(script: str, *arguments: str, out: Path, name: str) -> Program:
    """A script of the package's or of `peers/`, into an empty folder."""
    path = next(folder / script for folder in (SCRIPTS, PEERS) if (folder / script).exists())
    return Program(name, [PYTHON, str(path), *arguments], lambda: set_aside(out))
