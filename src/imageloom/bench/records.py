"""What a bench has measured, as plain data: `bench.json` is this, and all tables and pictures are made of it."""

from __future__ import annotations

from statistics import median

from imageloom.model import Plain
from imageloom.report.figures import Spread

VERSION = 1


class Configuration(Plain, frozen=True):
    """One way to run the same work."""

    name: str
    engine: str
    workers: int
    flags: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.name} {self.workers}"


class Run(Plain, frozen=True):
    """One run of the whole program, and one over a single photo just before it."""

    seconds: float
    cpu: float
    """User and system seconds of all its processes."""
    start: float
    """Seconds of the run over a single photo: start and end of the program and of its workers."""
    start_cpu: float


class Activity(Plain, frozen=True):
    """What the workers of a run were doing, from its timeline."""

    offset: float
    """Seconds from the program's start until its driver began."""
    seconds: float
    """Of the whole program."""
    width: float
    """Seconds of a bin, from the driver's beginning on."""
    rows: list[dict[str, list[int]]]
    """For each worker, or for some that followed each other, the percent of each bin that each stage took."""


class Measured(Plain, frozen=True):
    """What was measured of a configuration."""

    configuration: Configuration
    runs: list[Run]
    memory: int
    """Bytes of all processes together, each shared page counted once, in a run of its own."""
    item: Spread
    """All stages of an item together; this and what follows is of the run with the median time."""
    stay: Spread
    """From the engine's taking an item on until it is published."""
    stages: dict[str, float]
    """Seconds of all workers in each stage, and of the driver in publishing."""
    activity: Activity

    @property
    def seconds(self) -> float:
        return median(run.seconds for run in self.runs)

    @property
    def start(self) -> float:
        return median(run.start for run in self.runs)

    @property
    def cpu(self) -> float:
        return median(run.cpu for run in self.runs)


class Peer(Plain, frozen=True):
    """Another program that does the same to the same photos."""

    name: str
    workers: int
    seconds: list[float]
    cpu: list[float]


class Cell(Plain, frozen=True):
    """A large image in tiles of one size by one number of workers."""

    pixels: int
    """That a tile was asked to have."""
    workers: int
    parts: int
    """Tiles that were made, over all phases; 0 where the image was done whole."""
    seconds: list[float]


class Sweep(Plain, frozen=True):
    """Tile sizes by workers, on one large image."""

    pipeline: str
    width: int
    height: int
    cells: list[Cell]
    planned: Cell
    """What the planner chose by itself."""

    @property
    def best(self) -> Cell:
        return min(self.cells, key=lambda cell: median(cell.seconds))


class Fault(Plain, frozen=True):
    """A run whose workers were killed."""

    configuration: Configuration
    killed: int
    """Workers that were ended with SIGKILL; fewer than were asked for where the run was over too soon."""
    again: int
    """Attempts that were lost with them, and made again."""
    done: int
    failed: int
    equal: bool
    """All outputs are there, and equal to the serial engine's."""
    seconds: float
    """Of the whole program."""

    @property
    def wrong(self) -> str:
        """What is not as it must be, in words; empty where all is."""
        return "" if self.equal else "outputs are missing, or not the serial engine's bytes"


class Machine(Plain, frozen=True):
    processor: str
    cores: int
    memory: int
    system: str
    versions: dict[str, str]


class Bench(Plain, frozen=True):
    """All of it."""

    version: int
    began: float
    """Seconds since the epoch."""
    machine: Machine
    pipeline: str
    images: int
    different: int
    """Images that are not the same file as another one."""
    bytes: int
    drawn: bool
    """The images were drawn, not given."""
    repeats: int
    measured: list[Measured]
    missing: dict[str, str]
    """Why what was asked for could not be run, by name."""
    wrong: dict[str, str]
    """What failed or made other bytes than the serial engine, by label."""
    peers: list[Peer]
    sweep: Sweep | None
    faults: list[Fault]

    def find(self, name: str, workers: int) -> Measured | None:
        for measured in self.measured:
            if (measured.configuration.name, measured.configuration.workers) == (name, workers):
                return measured
        return None

    @property
    def serial(self) -> Measured | None:
        return self.find("serial", 1)
