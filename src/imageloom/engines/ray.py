"""Ray: processes on this machine, or an existing cluster by its address."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from concurrent import futures
from concurrent.futures import Executor, Future
from typing import Any

from imageloom.engines import Capabilities, Settings
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

LONGEST = 20
"""Characters of the temporary folder's path: Ray's sockets add 87 to it, and a socket's path may have 107."""
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
        self._pending: set[Future[Any]] = set()

    def submit(self, function: Any, /, packed: bytes) -> Future[Any]:  # type: ignore[override]
        future: Future[Any] = self._call.remote(packed).future()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        futures.wait(list(self._pending))
        ray.shutdown()


class Ray(ExecutorEngine):
    capabilities = Capabilities(ends_items=True, survives_death=True)

    def __init__(self, settings: Settings) -> None:
        self._known, self._asked = settings.jobs * settings.threads, float("inf")
        short = None if len(tempfile.gettempdir()) <= LONGEST else "/tmp"
        self._folder = "" if settings.connect else tempfile.mkdtemp(prefix="imageloom-ray-", dir=short)
        own: dict[str, Any] = {}
        if settings.connect:
            self._asked = float("-inf")
        else:
            own = {"num_cpus": self._known, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            own["_temp_dir"] = self._folder
        try:
            ray.init(
                settings.connect or "local",
                configure_logging=False,
                logging_level=logging.CRITICAL,
                log_to_driver=False,
                **own,
            )
        except ConnectionError as error:
            raise UsageError(f"--connect {settings.connect}: no cluster answers: {error}") from None
        super().__init__(_Calls(settings.threads), self._count, threads=settings.threads, lost=LOST)

    def close(self) -> None:
        super().close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _count(self) -> int:
        """Cores of all nodes."""
        if time.monotonic() > self._asked + FRESH:
            self._known = max(1, int(ray.cluster_resources().get("CPU", 1)))
            self._asked = time.monotonic()
        return self._known
