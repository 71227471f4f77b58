"""Engines run tasks. Each engine is one file or folder, and is loaded when it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast

from msgspec import Meta

from imageloom.errors import MissingExtra, UsageError
from imageloom.model import Count, Outcome, Plain, Task
from imageloom.scheduling.results import ResultCallback
from imageloom.scheduling.states import WorkerState
from imageloom.system.registry import Registry, load
from imageloom.system.sandbox import Sandbox
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
"""Each engine is a function that takes `Settings` and returns an `Engine`."""

TAKES: dict[str, frozenset[str]] = {
    "serial": frozenset(),
    "threads": frozenset(),
    "processes": frozenset({"threads"}),
    "pipeline": frozenset({"threads"}),
    "zeromq": frozenset({"threads", "bind", "keys"}),
    "redis": frozenset({"threads", "connect"}),
    "nodes": frozenset({"threads", "connect", "nodes"}),
    "mpi": frozenset({"threads"}),
    "dask": frozenset({"threads", "connect"}),
    "ray": frozenset({"threads", "connect"}),
}
"""The settings that an engine takes, of those that not all engines do. The engine of a plug-in takes all."""

WORKERS: dict[str, str] = {
    "zeromq": "imageloom.engines.zeromq.worker:work_for",
    "redis": "imageloom.engines.redis.worker:work_for",
}
"""The function that a process of `imageloom worker` runs, by engine. Its arguments are `WorkerSettings`
and an event, `leaving`. The engine of a plug-in has it as the attribute `work_for`."""


MOST_WORKERS = 65_536
LONGEST = 1e9
"""The longest time-out, in seconds: longer ones are not a time that a thread can wait."""


class Settings(Plain, frozen=True):
    """Settings of an engine. Each engine uses those that apply to it."""

    jobs: Annotated[int, Meta(ge=0, le=MOST_WORKERS)] = 1
    """Workers."""
    threads: Annotated[int, Meta(ge=1, le=MOST_WORKERS)] = 1
    """Number of threads in each worker process."""
    timeout: Annotated[float, Meta(gt=0, le=LONGEST)] = 600.0
    """Time-out of one item, in seconds. Then its worker is ended, or only the sandboxed process in it."""
    memory: Count = 0
    """Maximum memory for data of one worker, in bytes; 0 for no limit."""
    connect: str = ""
    """Address of an existing cluster, broker or server; empty for a local one."""
    bind: str = ""
    """Address that workers elsewhere connect to; empty for local workers only."""
    keys: str = ""
    """Path of the file with the keys of this side."""
    nodes: str = ""
    """Path of the configuration file of the engine `nodes`."""
    waits: bool = False
    """Whether tasks wait for remote stores. Then more tasks than workers are in progress, but only
    as many as workers process pixels."""
    in_flight: int = 0
    """Number of tasks in progress together if `waits` is set; 0 to find it by measuring."""
    guard: Guard = Guard()
    """Limits of the workers that the engine starts, if not only the driver can send them tasks."""
    sandbox: Sandbox = Sandbox()
    """How workers decode items. It is also in each task."""


class Capabilities(Plain, frozen=True):
    """What an engine can do. A test of an engine is skipped only if a capability is missing."""

    shares_memory: bool = False
    """Its workers share the memory of the driver's process."""
    splits_stages: bool = False
    """Different processes decode, filter and encode an item."""
    overlaps: bool = False
    """The items of a task make their requests to stores concurrently."""
    reports_results: bool = False
    """It reports the result of each item before the end of the task: it is a `ReportingEngine`."""
    ends_items: bool = False
    """It ends an item after `Settings.timeout`."""
    survives_death: bool = False
    """The engine and the driver survive the death of a worker."""
    refuses: bool = False
    """A worker may refuse a task. The task then goes to another worker, and no item is charged."""


class Engine(Protocol):
    """Runs tasks. An engine inherits the default methods of this class.

    The failure of an item is data in the outcome. A future raises `WorkerLost` if a worker died with the
    task. Any other exception is a bug.
    """

    capabilities: Capabilities = Capabilities()
    settings: Settings = Settings()
    """Used for worker processes that the driver starts in addition, if the engine shares its memory."""
    listeners: Sequence[Listener] = ()
    """Called with each event of the run, in the driver's thread."""

    @property
    def has_others(self) -> bool:
        """Whether workers that it did not start may get tasks. They may be on other machines, and reach only the
        source, the sink and `--scratch`."""
        return False

    @property
    def missing(self) -> str:
        """What the user must do if there are no workers, for engines whose workers are started elsewhere; else
        empty."""
        return ""

    def lag(self) -> dict[str, int]:
        """Number of tasks that no worker has taken, by stream, for engines with a broker. Otherwise empty."""
        return {}

    @property
    def worker_states(self) -> tuple[WorkerState, ...]:
        """The workers with what they have, to be shown; empty if the engine cannot say it. From any thread."""
        return ()

    @property
    def capacity(self) -> int:
        """Number of tasks that run at the same time. It may change."""

    def submit(self, task: Task) -> Future[Outcome]:
        """Submit a task. It does not block for long, except in the serial engine, which runs the task at once."""

    def cut_short(self, task: Task) -> None:
        """Finish only the items in progress of a submitted task, as far as the engine can. Its other items fail as
        `NotBegun`. It may be called from any thread."""
        return

    def close(self) -> None:
        """Close the engine and free its resources. Tasks that have not begun are cancelled."""

    def kill(self) -> None:
        """Close the engine without waiting for the tasks in progress, as far as it can."""
        self.close()


class ReportingEngine(Engine, Protocol):
    """An engine that reports the result of each item before the end of the task."""

    def submit(self, task: Task, on_result: ResultCallback | None = None) -> Future[Outcome]: ...


def submit(engine: Engine, task: Task, on_result: ResultCallback) -> Future[Outcome]:
    """Submit a task. An engine that can calls `on_result` for each item before the task's end, from any thread."""
    if engine.capabilities.reports_results:
        return cast("ReportingEngine", engine).submit(task, on_result)
    return engine.submit(task)


def open_engine(name: str, settings: Settings) -> Engine:
    """The engine with this name.

    Raises:
        UsageError: no engine has this name (the message lists the known names), its plug-in cannot be loaded, or
            it does not take one of the settings.
        MissingExtra: its library is not installed. The extra has the engine's name.
    """
    check_settings(name, settings)
    engine: Engine = _load(name, ENGINES.load, name)(settings)
    return engine


@contextmanager
def opened_engine(name: str, settings: Settings) -> Iterator[Engine]:
    """`open_engine`, and close the engine at the end. After Ctrl-C, tasks in progress are not waited for."""
    engine = open_engine(name, settings)
    try:
        try:
            yield engine
        except KeyboardInterrupt:
            raise
        except BaseException:
            engine.close()
            raise
        engine.close()
    except KeyboardInterrupt:  # also one that arrives while the engine is being closed
        engine.kill()
        raise


def check_settings(name: str, settings: Settings) -> None:
    """Refuse settings that the engine would ignore.

    Raises:
        UsageError: the message names the option, and the engines that take it.
    """
    usual = Settings()
    for option in ("connect", "bind", "keys", "nodes", "threads"):
        if getattr(settings, option) != getattr(usual, option) and option not in TAKES.get(name, {option}):
            takers = ", ".join(engine for engine, takes in TAKES.items() if option in takes)
            raise UsageError(
                f"the engine {name} does not take --{option}: remove it, or choose an --engine that takes it: "
                f"{takers}"
            )


def worker_target(name: str) -> str:
    """The function that a worker process of this engine runs, as "module:attribute".

    Raises:
        UsageError: this engine has no external workers.
    """
    if name in WORKERS:
        return WORKERS[name]
    if name not in ENGINES.built_in and name in ENGINES and hasattr(engine := ENGINES.load(name), "work_for"):
        return f"{engine.__module__}:{engine.__qualname__}.work_for"
    raise UsageError(
        f"--engine {name}: `imageloom worker` works for these engines only: {', '.join(WORKERS)}"
    )


def worker_function(name: str) -> Callable[..., None]:
    """The function that a worker process of this engine runs. It returns after its event was set."""
    function: Callable[..., None] = _load(name, load, worker_target(name))
    return function


def _load(name: str, loader: Callable[[str], Any], target: str) -> Any:
    try:
        return loader(target)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("imageloom"):
            raise
        raise MissingExtra(f"the engine {name}", name) from None
