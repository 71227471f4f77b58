"""The measurements of a bench, as plain data. `bench.json` has this form; tables and drawings are made from it."""

from __future__ import annotations

from statistics import median

from imageloom.model import Plain
from imageloom.report.figures import Spread

VERSION = 1


class Configuration(Plain, frozen=True):
    """A way to run the job, with a number of workers."""

    name: str
    engine: str
    workers: int
    flags: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.name} {self.workers}"


class Run(Plain, frozen=True):
    """One run of the whole program, after a run over a single photo."""

    seconds: float
    cpu: float
    """User and system time of all its processes, in seconds."""
    start: float
    """Duration of the run over a single photo in seconds: start and end of the program and its workers."""
    start_cpu: float


class Activity(Plain, frozen=True):
    """The activity of the workers of a run, from its timeline."""

    offset: float
    """Seconds from the program's start until its driver began."""
    seconds: float
    """Duration of the whole program."""
    width: float
    """Width of a bin in seconds; bins start with the driver."""
    rows: list[dict[str, list[int]]]
    """For each worker, or for consecutive workers: the percentage of each bin spent in each stage."""


class Measured(Plain, frozen=True):
    """The measurements of a configuration."""

    configuration: Configuration
    runs: list[Run]
    memory: int
    """Peak memory of all processes together in bytes, with shared pages counted once, from a separate run."""
    item: Spread
    """All stages of an item together. This and the following fields are of the run with the median time."""
    stay: Spread
    """Time from an item's submission to the engine until its publication."""
    stages: dict[str, float]
    """Seconds of all workers in each stage, and of the driver for publishing."""
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
    """The measurements of another program with the same photos."""

    name: str
    workers: int
    seconds: list[float]
    cpu: list[float]


class Cell(Plain, frozen=True):
    """The measurements of a large image with one tile size and one number of workers."""

    pixels: int
    """Requested pixels per tile."""
    workers: int
    parts: int
    """Number of tiles in all phases; 0 if the image was processed as a whole."""
    seconds: list[float]


class Sweep(Plain, frozen=True):
    """The comparison of tile sizes and numbers of workers on one large image."""

    pipeline: str
    width: int
    height: int
    cells: list[Cell]
    planned: Cell
    """The choice of the planner."""

    @property
    def best(self) -> Cell:
        """The fastest choice, which may be the planned one."""
        return min((*self.cells, self.planned), key=lambda cell: median(cell.seconds))


class Fault(Plain, frozen=True):
    """A run whose workers were killed."""

    configuration: Configuration
    killed: int
    """Number of workers killed with SIGKILL; fewer than requested if the run ended too early."""
    again: int
    """Number of attempts that were lost with them and retried."""
    done: int
    failed: int
    equal: bool
    """Whether all outputs exist and are identical to those of the engine serial."""
    seconds: float
    """Duration of the whole program."""

    @property
    def wrong(self) -> str:
        """A description of the problems; empty if there are none."""
        return "" if self.equal else "outputs are missing, or not the serial engine's bytes"


class Machine(Plain, frozen=True):
    processor: str
    cores: int
    memory: int
    system: str
    versions: dict[str, str]


class Bench(Plain, frozen=True):
    """All measurements of a bench."""

    version: int
    began: float
    """Seconds since the epoch."""
    machine: Machine
    pipeline: str
    images: int
    different: int
    """Number of different image files."""
    bytes: int
    drawn: bool
    """Whether the images were drawn."""
    repeats: int
    measured: list[Measured]
    missing: dict[str, str]
    """By name: why an engine or program could not be run."""
    wrong: dict[str, str]
    """By label: runs that failed, or whose outputs differ from those of the engine serial."""
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
