"""The ways to run a job that a bench compares."""

from __future__ import annotations

from imageloom.bench.records import Configuration
from imageloom.errors import UsageError

WAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "serial": ("serial", ()),
    "threads": ("threads", ()),
    "tiles": ("threads", ("--tile", "always", "--items-at-once", "1")),
    "tiles-images": ("threads", ("--tile", "always")),
    "pipeline": ("pipeline", ()),
    "processes": ("processes", ()),
    "mpi": ("mpi", ()),
    "zeromq": ("zeromq", ()),
    "redis": ("redis", ()),
    "nodes": ("nodes", ()),
    "dask": ("dask", ()),
    "ray": ("ray", ()),
}
"""Engine and flags of `imageloom run`, by name. tiles: one image at a time; tiles-images: several at a time."""

WITH_PROCESSES = ("processes", "pipeline", "mpi", "zeromq", "redis", "nodes", "dask", "ray")
"""Ways whose workers are separate processes, which can be killed."""


def configurations(names: list[str], workers: list[int]) -> list[Configuration]:
    """Each way with each number of workers. The engine serial, the reference, is always included.

    Raises:
        UsageError: a way does not exist, or a number is below 1.
    """
    unknown = [name for name in names if name not in WAYS]
    if unknown:
        raise UsageError(f"--engines: there is no {unknown[0]!r}; there are: {', '.join(WAYS)}")
    if not workers or min(workers) < 1:
        raise UsageError("--workers: the numbers of workers must be at least 1")
    found = [Configuration("serial", "serial", 1)]
    for name in dict.fromkeys(names):
        if name != "serial":
            engine, flags = WAYS[name]
            found += [Configuration(name, engine, count, flags) for count in sorted(set(workers))]
    return found
