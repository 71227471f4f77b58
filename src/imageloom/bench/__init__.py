"""The bench: runs the same job on every engine, as whole programs, and measures time and memory."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from imageloom.errors import StorageError
from imageloom.model import Plain

if TYPE_CHECKING:
    from imageloom.bench.records import Bench, Machine
    from imageloom.bench.rounds import Say

LIBRARIES = (
    "opencv-python-headless",
    "numpy",
    "simplejpeg",
    "mpi4py",
    "pyzmq",
    "redis",
    "grpcio",
    "distributed",
)


class Wanted(Plain, frozen=True):
    """The settings of a bench."""

    pipeline: str = "resize 512x512"
    names: tuple[str, ...] = ()
    """Names of the ways to compare; see `configurations.WAYS`."""
    workers: tuple[int, ...] = (1, 2, 4, 8)
    repeats: int = 3
    count: int = 0
    """Number of images; 0: all images of the folder."""
    peers: bool = False
    sizes: tuple[int, ...] = ()
    """Tile sizes in pixels to compare on one large image; empty: no comparison."""
    large: tuple[int, int] = (8000, 6000)
    """Width and height of that image, in pixels."""
    kills: int = 3
    """Number of workers to kill in each run of the fault test; 0: no fault test."""


def run_bench(wanted: Wanted, folder: Path | None, say: Say) -> Bench:
    """Run a bench over the photos of a folder, or over drawn ones.

    Args:
        folder: folder of photos; None for drawn photos.
        say: called with a line about each step.

    Raises:
        UsageError: an engine or a number of workers is invalid.
        NothingToDo: there is no image in the folder.
        ImageloomError: a run of the engine serial failed, or different tile sizes gave different outputs.
    """
    from imageloom.bench.configurations import WITH_PROCESSES, configurations
    from imageloom.bench.faults import with_kills
    from imageloom.bench.peers import run_peers
    from imageloom.bench.records import VERSION, Bench
    from imageloom.bench.rounds import Rounds
    from imageloom.bench.sweep import Sweeper
    from imageloom.bench.work import Work
    from imageloom.system.machine import available_cores

    began, cores = time.time(), available_cores()
    ways = configurations(list(wanted.names), list(wanted.workers))
    with TemporaryDirectory(prefix="imageloom-bench-") as made:
        place = Path(made)
        work = Work(wanted.pipeline, folder, wanted.count, place)
        rounds = Rounds(work, ways, say)
        measured = rounds.run(wanted.repeats)
        usual = max((count for count in wanted.workers if count <= cores), default=min(wanted.workers))
        faults = []
        for one in measured:
            way = one.configuration
            if wanted.kills and way.name in WITH_PROCESSES and way.workers == usual:
                say(f"kills: {way.label}")
                faults.append(with_kills(work, way, wanted.kills, rounds.expected))
        peers, missing = run_peers(work, usual, wanted.repeats, say) if wanted.peers else ([], {})
        work.clear()
        sweep = None
        if wanted.sizes:
            counts = [count for count in wanted.workers if count <= 2 * cores]
            sweep = Sweeper(place / "sweep", *wanted.large, say).run(wanted.sizes, counts, wanted.repeats)
    return Bench(
        VERSION,
        began,
        this_machine(),
        wanted.pipeline,
        work.count,
        work.different,
        work.bytes,
        work.drawn,
        wanted.repeats,
        measured,
        rounds.missing | missing,
        rounds.wrong | {f"{f.configuration.label} with kills": f.wrong for f in faults if f.wrong},
        peers,
        sweep,
        faults,
    )


def write(bench: Bench, out: Path) -> None:
    """Write a bench into a folder, as `bench.html` and `bench.json`.

    Raises:
        StorageError: a file cannot be written.
    """
    import msgspec

    from imageloom.bench.page import to_html
    from imageloom.report import write_file

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {out}: {error.strerror}") from None
    write_file(out / "bench.json", msgspec.json.encode(bench))
    write_file(out / "bench.html", to_html(bench).encode())


def this_machine() -> Machine:
    """The machine of the measurements."""
    from imageloom import __version__
    from imageloom.bench.records import Machine
    from imageloom.system.machine import available_cores

    versions = {"imageloom": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    system = f"{sys.platform} {platform.release()} {platform.machine()}"
    return Machine(_processor(), available_cores(), memory, system, versions)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
