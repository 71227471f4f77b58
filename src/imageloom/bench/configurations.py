"""The ways to run the same work that a bench compares."""

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
"""Name: engine and flags of `imageloom run`. Tiles of one image after the other; tiles and images together."""

WITH_PROCESSES = ("processes", "pipeline", "mpi", "zeromq", "redis", "nodes", "dask", "ray")
"""Those whose workers can die without the driver."""


def configurations(names: list[str], workers: list[int]) -> list[Configuration]:
    """Each way with each number of workers; the serial one, which the others are held against, is always there.

    Raises:
        UsageError: there is no such way, or no such number.
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
