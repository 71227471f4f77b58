"""A bench that was never run: for the tests of its drawings and its page."""

from __future__ import annotations

import math

from imageloom.bench.configurations import WAYS, WITH_PROCESSES, configurations
from imageloom.bench.records import (
    VERSION,
    Activity,
    Bench,
    Cell,
    Configuration,
    Fault,
    Machine,
    Measured,
    Peer,
    Run,
    Sweep,
)
from imageloom.model import STAGES
from imageloom.report.figures import Spread

CORES = 2
IMAGES = 1000


def measured_of(way: Configuration, place: int) -> Measured:
    """Work of 10 s, 1 s more for each way, of which a tenth is serial; beyond the cores it gets no faster."""
    workers = min(way.workers, CORES)
    seconds = (10 + place) * (0.1 + 0.9 / workers) + 0.1 * (way.workers - workers)
    runs = [Run(seconds + 0.1 * n, 10 + place / 2 + n / 10, 0.4 + place / 10, 0.5) for n in (-1, 0, 1)]
    bins = [round(50 + 50 * math.sin(n / 9)) for n in range(150)]
    activity = Activity(
        0.4, seconds, (seconds - 0.5) / 150, [{s: [b // 5 for b in bins] for s in STAGES}] * way.workers
    )
    item = Spread(8.0, 0.002 + place / 5000, 0.003 + place / 4000, 0.01, 0.05)
    stay = Spread(90.0, 0.09 + place / 50, 0.2, 0.3, 0.4)
    stages = dict(zip((*STAGES, "publish"), (0.2, 4.0, 1.5, 2.5, 0.4, 0.1), strict=True))
    return Measured(way, runs, 40_000_000 + place * 9_000_000, item, stay, stages, activity)


def bench_of() -> Bench:
    """Everything but ray, on 2 cores."""
    names = [name for name in WAYS if name != "ray"]
    ways = configurations(names, [1, 2, 4, 8])
    cells = [
        Cell(
            pixels,
            workers,
            48_000_000 // pixels + 1,
            [3 / min(workers, 2) + abs(math.log10(pixels) - 6.9)] * 3,
        )
        for pixels in (500_000, 2_000_000, 8_000_000, 32_000_000)
        for workers in (1, 2, 4)
    ]
    sweep = Sweep("gaussian_blur 2", 8000, 6000, cells, Cell(8_000_000, 2, 7, [1.6, 1.7, 1.8]))
    faults = [
        Fault(Configuration(name, name, 2), 3, 3, IMAGES, 0, True, 12.0) for name in WITH_PROCESSES[:-1]
    ]
    peers = [Peer("OpenCV script", 2, [5.0, 5.1, 5.2], [9.0, 9.1, 9.2])]
    return Bench(
        VERSION,
        1.8e9,
        Machine("Some processor", CORES, 8 << 30, "linux 6.1 x86_64", {"imageloom": "0.1.0"}),
        "resize 512x512",
        IMAGES,
        400,
        45_000_000,
        False,
        3,
        [measured_of(way, place) for place, way in enumerate(ways)],
        {"ray": "the engine ray needs an extra that is not installed: pip install 'imageloom[ray]'"},
        {},
        peers,
        sweep,
        faults,
    )
