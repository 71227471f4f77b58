"""Settings and report of a chaos test, as plain data."""

from __future__ import annotations

from imageloom.errors import UsageError
from imageloom.model import Plain

FAULTS = {
    "kill-workers": "a worker process is killed (SIGKILL)",
    "stop-workers": "a worker process is suspended for a while (SIGSTOP, SIGCONT)",
    "kill-server": "the Redis server is killed, and restarted after a while",
    "kill-coordinator": "the main process of the run is killed, and restarted with the same command",
    "cut": "a connection between workers or the run and the server is cut",
    "fill-disk": "the sink's disk is full for a while",
}
"""The faults by name, each with a description."""

WORKERS = {
    "processes": "multiprocessing.forkserver",
    "pipeline": "multiprocessing.forkserver",
    "zeromq": "multiprocessing.forkserver",
    "redis": "multiprocessing.forkserver",
    "nodes": "multiprocessing.forkserver",
    "mpi": "imageloom.engines.mpi.relay",
    "dask": "multiprocessing.spawn",
    "ray": "ray::",
}
"""A text in the command line of the worker processes, by engine."""

CONNECTED = ("redis", "zeromq", "nodes")
"""Engines whose connections can be routed through a proxy."""


class Chaos(Plain, frozen=True):
    """The settings of a chaos test."""

    pipeline: str
    source: str
    """Absolute path of a folder."""
    engine: str
    rates: dict[str, float]
    """Average number of events per second, by fault."""
    jobs: int = 2
    seconds: float = 30.0
    """How long jobs are started and faults injected, in seconds. The last job then ends without faults."""
    runs: int = 0
    """Number of jobs to start; 0: as many as there is time for."""
    seed: int = 0
    pause: float = 2.0
    """How long a worker stays suspended or the disk stays full, in seconds."""
    patience: float = 600.0
    """Time-out of a job after the last fault, in seconds."""
    flags: tuple[str, ...] = ()
    """Further flags of `imageloom run`, for all runs."""

    def check(self) -> None:
        """Check the settings.

        Raises:
            UsageError: no fault is given, or a fault is impossible on this engine.
        """
        engine = self.engine
        if not self.rates:
            raise UsageError(f"give at least one fault with a rate such as 2/s: --{', --'.join(FAULTS)}")
        for fault in self.rates:
            if fault in ("kill-workers", "stop-workers") and engine not in WORKERS:
                raise UsageError(f"--{fault}: the engine {engine} has no worker processes")
            if fault == "kill-server" and engine != "redis":
                raise UsageError(f"--{fault}: the engine {engine} has no server; only redis has one")
            if fault == "cut" and engine not in CONNECTED:
                raise UsageError(
                    f"--{fault}: the engine {engine} has no connections that can be cut; "
                    f"engines with such connections: {', '.join(CONNECTED)}"
                )


class Report(Plain, frozen=True):
    """The injected faults, their cost, and the problems found."""

    engine: str
    seed: int
    outputs: int
    """Number of outputs of each job."""
    jobs: int
    """Number of jobs that ended under faults."""
    fired: dict[str, int]
    """Number of injected faults, by name."""
    starts: int
    """Number of starts of the coordinator (the main process), over all jobs."""
    undisturbed: float
    """Duration of one job without faults in seconds, including its start."""
    disturbed: float
    """Duration of all jobs under faults in seconds."""
    problems: tuple[str, ...]
    """Descriptions of failed checks; empty if all checks passed."""

    @property
    def untested(self) -> tuple[str, ...]:
        """The faults that were asked for and never happened."""
        return tuple(name for name, count in self.fired.items() if not count)

    @property
    def cost(self) -> float:
        """Duration of a job under faults divided by the duration without faults."""
        return self.disturbed / (max(1, self.jobs) * self.undisturbed)
