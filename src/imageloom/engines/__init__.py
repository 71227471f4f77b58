"""Engines: they run tasks somewhere, one file for each technology, loaded when it is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, cast

from imageloom.errors import MissingExtra, UsageError
from imageloom.model import Outcome, Plain, Task
from imageloom.scheduling.results import ResultCallback
from imageloom.system.registry import Registry, load
from imageloom.worker.guard import Guard

if TYPE_CHECKING:
    from imageloom.records.events import Listener

ENGINES = Registry(
    "engine",
    {
        "serial": "imageloom.engines.serial:Serial",
        "threads": "imageloom.engines.threads:Threads",
        "processes": "imageloom.engines.processes:Processes",
        "pipeline": "imageloom.engines.pipeline.engine:Pipeline",
        "zeromq": "imageloom.engines.zeromq.engine:Zeromq",
        "redis": "imageloom.engines.redis.engine:RedisStreams",
        "nodes": "imageloom.engines.nodes.engine:Nodes",
        "mpi": "imageloom.engines.mpi.engine:open_mpi",
        "dask": "imageloom.engines.dask:Dask",
        "ray": "imageloom.engines.ray:Ray",
    },
)
"""Each is a function of `Settings` that makes an `Engine`."""

WORKERS: dict[str, str] = {
    "zeromq": "imageloom.engines.zeromq.worker:work_for",
    "redis": "imageloom.engines.redis.worker:work_for",
}
"""What a process of `imageloom worker` runs, by engine: a function of `WorkerSettings` and an event, `leaving`.
The engine of a plug-in has it as its attribute `work_for`."""


class Settings(Plain, frozen=True):
    """How an engine is to run. Each one takes from it what it has use for."""

    jobs: int = 1
    """Workers."""
    threads: int = 1
    """Threads in each worker process."""
    timeout: float = 600.0
    """Seconds that one item may take before its worker is ended."""
    memory: int = 0
    """Bytes that one worker may take for data; 0 for no bound."""
    connect: str = ""
    """Address of an existing cluster, broker or server; empty for a local one."""
    bind: str = ""
    """Address that workers elsewhere connect to; empty for local workers only."""
    keys: str = ""
    """Path of the file of keys that this side proves itself with."""
    nodes: str = ""
    """Path of the file of the engine `nodes`: its nodes, and how they are chosen."""
    waits: bool = False
    """Tasks wait for stores: more are under way than there are workers, of which only as many work on pixels."""
    in_flight: int = 0
    """Tasks under way together, where they wait for stores; 0 for as many as measuring finds."""
    guard: Guard = Guard()
    """The bounds of workers that the engine itself starts, where others than the driver can send them tasks."""


class Capabilities(Plain, frozen=True):
    """What an engine is able to do. A test of an engine is skipped only where this says that it cannot."""

    shares_memory: bool = False
    """Its workers see the memory of the driver's process."""
    overlaps: bool = False
    """The requests of a task's items to stores do not wait for each other."""
    reports_results: bool = False
    """It tells the results of a task's items before the task's end: it is a `ReportingEngine`."""
    ends_items: bool = False
    """It ends an item that takes longer than `Settings.timeout`."""
    survives_death: bool = False
    """The death of one of its workers ends neither the engine nor the driver."""
    refuses: bool = False
    """A worker may refuse a task, which costs nothing: it goes to another one."""


class Engine(Protocol):
    """Runs tasks. An engine inherits from this class what it does not define itself.

    A failing item is data in the outcome. A future raises only `WorkerLost` (a worker died with the task) or
    what is a bug.
    """

    capabilities: Capabilities = Capabilities()
    settings: Settings = Settings()
    """For the worker processes that the driver opens beside an engine which shares its memory."""
    listeners: Sequence[Listener] = ()
    """Called with each event of the run, in the driver's thread."""

    @property
    def missing(self) -> str:
        """What to do where there are no workers, for engines whose workers are started elsewhere; else empty."""
        return ""

    def lag(self) -> dict[str, int]:
        """Tasks that no worker has taken, by the name of their stream, for engines with a broker; else empty."""
        return {}

    @property
    def capacity(self) -> int:
        """How many tasks run at the same time; it may change."""

    def submit(self, task: Task) -> Future[Outcome]:
        """Take a task on. Never blocks for long, but for the serial engine, which does it at once."""

    def close(self) -> None:
        """Let go of all that the engine holds; what has not begun is cancelled."""


class ReportingEngine(Engine, Protocol):
    """One that knows the results of a task's items before the task's end."""

    def submit(self, task: Task, on_result: ResultCallback | None = None) -> Future[Outcome]: ...


def submit(engine: Engine, task: Task, on_result: ResultCallback) -> Future[Outcome]:
    """Hand a task to an engine, which may tell some results before the task's end, from any thread."""
    if engine.capabilities.reports_results:
        return cast("ReportingEngine", engine).submit(task, on_result)
    return engine.submit(task)


def open_engine(name: str, settings: Settings) -> Engine:
    """The engine of that name.

    Raises:
        UsageError: there is none (the message lists the known ones), or its plug-in cannot be loaded.
        MissingExtra: its library is not installed; the extra has the engine's name.
    """
    engine: Engine = _load(name, ENGINES.load, name)(settings)
    return engine


def worker_target(name: str) -> str:
    """Where what a worker process of that engine runs is defined, as "module:attribute".

    Raises:
        UsageError: nothing connects to that engine.
    """
    if name in WORKERS:
        return WORKERS[name]
    if name not in ENGINES.built_in and name in ENGINES and hasattr(engine := ENGINES.load(name), "work_for"):
        return f"{engine.__module__}:{engine.__qualname__}.work_for"
    raise UsageError(f"--engine {name!r} has no external workers; choose one of: {', '.join(WORKERS)}")


def worker_function(name: str) -> Callable[..., None]:
    """What a worker process of that engine runs, until it has finished after the event was set."""
    function: Callable[..., None] = _load(name, load, worker_target(name))
    return function


def _load(name: str, loader: Callable[[str], Any], target: str) -> Any:
    try:
        return loader(target)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("imageloom"):
            raise
        raise MissingExtra(f"the engine {name}", name) from None
