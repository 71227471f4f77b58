"""What is asked of a run under faults, and what came of it, as plain data."""

from __future__ import annotations

from imageloom.errors import UsageError
from imageloom.model import Plain

FAULTS = {
    "kill-workers": "a worker process is killed (SIGKILL)",
    "stop-workers": "a worker process is stopped, and goes on after a while (SIGSTOP, SIGCONT)",
    "kill-server": "the Redis server is killed, and comes back",
    "kill-coordinator": "the run itself is killed, and started again by the same command",
    "cut": "a connection between workers or the run and the server is cut",
    "fill-disk": "the sink's disk is full for a while",
}
"""By name: what happens when one fires."""

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
"""By engine, what the command line of its worker processes has in it."""

CONNECTED = ("redis", "zeromq", "nodes")
"""Engines whose connections can be led through a proxy."""


class Chaos(Plain, frozen=True):
    """A run under faults."""

    pipeline: str
    source: str
    """Absolute path of a folder."""
    engine: str
    rates: dict[str, float]
    """Of the faults: how often each one fires in a second, on the average."""
    jobs: int = 2
    seconds: float = 30.0
    """For so long jobs are begun and faults injected; what is under way then ends undisturbed."""
    runs: int = 0
    """So many jobs, and no more, are begun; 0 for as many as there is time for."""
    seed: int = 0
    pause: float = 2.0
    """Seconds that a stopped worker or a full disk stays so."""
    patience: float = 600.0
    """Seconds after the last fault within which a job must end."""
    flags: tuple[str, ...] = ()
    """More flags of `imageloom run`, for all runs alike."""

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            UsageError: a fault that this engine cannot have.
        """
        engine = self.engine
        if not self.rates:
            raise UsageError(f"no fault is asked for: --{', --'.join(FAULTS)}, each with a rate as 2/s")
        for fault in self.rates:
            if fault in ("kill-workers", "stop-workers") and engine not in WORKERS:
                raise UsageError(f"--{fault}: the engine {engine} has no worker processes")
            if fault == "kill-server" and engine != "redis":
                raise UsageError(f"--{fault}: the engine {engine} has no server; redis has")
            if fault == "cut" and engine not in CONNECTED:
                raise UsageError(
                    f"--{fault}: the engine {engine} has no connections of its own to cut; "
                    f"there are: {', '.join(CONNECTED)}"
                )


class Report(Plain, frozen=True):
    """What was injected, what it cost, and what is wrong."""

    engine: str
    seed: int
    outputs: int
    """That each job has to make."""
    jobs: int
    """That were run to their end under faults, one after the other."""
    fired: dict[str, int]
    """How often each fault did, by its name."""
    starts: int
    """Of coordinators, over all jobs."""
    undisturbed: float
    """Seconds of one job without faults, with its start."""
    disturbed: float
    """Seconds of all jobs under faults."""
    problems: tuple[str, ...]
    """In words; empty where all is as it should be."""

    @property
    def cost(self) -> float:
        """The time of a job under faults, as a multiple of an undisturbed one's."""
        return self.disturbed / (max(1, self.jobs) * self.undisturbed)
