"""Ray: processes on this machine, or an existing cluster by its address."""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import Executor, Future
from typing import Any

from imageloom.engines import Settings
from imageloom.engines.executor import ExecutorEngine, perform_packed
from imageloom.errors import MissingExtra, UsageError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault(
    "RAY_AUTH_MODE", "disabled"
)  # on loopback; a cluster of one's own brings its mode along

try:
    import ray
    from ray import exceptions
except ImportError:
    raise MissingExtra("the engine ray", "ray") from None

FRESH = 5.0
"""Seconds for which the number of an existing cluster's cores holds."""
LOST = (
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.OutOfMemoryError,
    exceptions.ObjectLostError,
    exceptions.LocalRayletDiedError,
)


class _Calls(Executor):
    """Ray's remote calls as an executor."""

    def __init__(self, threads: int) -> None:
        self._call = ray.remote(num_cpus=threads, max_retries=0)(perform_packed)

    def submit(self, function: Any, /, packed: bytes) -> Future[Any]:  # type: ignore[override]
        future: Future[Any] = self._call.remote(packed).future()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        ray.shutdown()


class Ray(ExecutorEngine):
    def __init__(self, settings: Settings) -> None:
        self._known, self._asked = settings.jobs * settings.threads, float("inf")
        size: dict[str, Any] = {"num_cpus": self._known, "include_dashboard": False}
        if settings.connect:
            size, self._asked = {}, float("-inf")
        else:
            size["_node_ip_address"] = "127.0.0.1"
        try:
            ray.init(
                settings.connect or "local",
                configure_logging=False,
                logging_level=logging.CRITICAL,
                log_to_driver=False,
                **size,
            )
        except ConnectionError as error:
            raise UsageError(f"--connect {settings.connect}: no cluster answers: {error}") from None
        super().__init__(_Calls(settings.threads), self._count, threads=settings.threads, lost=LOST)

    def _count(self) -> int:
        """Cores of all nodes."""
        if time.monotonic() > self._asked + FRESH:
            self._known = max(1, int(ray.cluster_resources().get("CPU", 1)))
            self._asked = time.monotonic()
        return self._known
