"""Dask: processes on this machine, or an existing cluster by its scheduler's address (distributed's executor)."""

from __future__ import annotations

import contextlib
import logging
import time

from imageloom.engines import Capabilities, Settings
from imageloom.engines.executor import ExecutorEngine
from imageloom.errors import MissingExtra, UsageError, WorkerLost

try:
    import dask.config
    import distributed
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker
except ImportError:
    raise MissingExtra("the engine dask", "dask") from None

PATIENCE = 30.0
"""Seconds that a scheduler may take to answer, and its first worker to be there."""
FRESH = 5.0
"""Seconds for which the number of an existing cluster's workers holds."""
LOOPBACK = "127.0.0.1:0"
LOST = (KilledWorker, CommClosedError)

_QUIET = {
    "distributed.worker.profile.enabled": False,  # it looks at all stacks a hundred times a second
    "distributed.admin.tick.interval": "500ms",
}
_PRELOAD = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's: it finishes what is in hand
import imageloom.worker.work
"""


class Dask(ExecutorEngine):
    """Workers that die are replaced by the cluster; here one death is enough for a task to be lost."""

    capabilities = Capabilities(ends_items=True, survives_death=True)

    def __init__(self, settings: Settings) -> None:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        self._own = None if settings.connect else _local_cluster(settings)
        try:
            self._client = distributed.Client(
                settings.connect or self._own, timeout=PATIENCE, set_as_default=False
            )
            self._client.wait_for_workers(1, timeout=PATIENCE)
        except (OSError, ValueError, TimeoutError) as error:
            if self._own:
                self._own.close()
                raise WorkerLost(f"no Dask worker has started in {PATIENCE:g} s: {error}") from None
            raise UsageError(f"--connect {settings.connect}: no cluster answers: {error}") from None
        self._known, self._asked = settings.jobs * settings.threads, float("inf" if self._own else "-inf")
        super().__init__(self._client.get_executor(pure=False), self._count, ahead=2, lost=LOST)

    def close(self) -> None:
        super().close()
        self._client.close()
        if self._own:
            self._own.close()

    def _count(self) -> int:
        """Threads of all workers. Dask answers this in any thread but its own."""
        if time.monotonic() > self._asked + FRESH:
            with contextlib.suppress(*LOST, OSError, TimeoutError):  # its futures say that it is gone
                self._known = max(1, sum(self._client.nthreads().values()))
            self._asked = time.monotonic()
        return self._known


def _local_cluster(settings: Settings) -> distributed.LocalCluster:
    with dask.config.set(_QUIET):
        return distributed.LocalCluster(
            n_workers=settings.jobs,
            threads_per_worker=settings.threads,
            processes=True,
            host="127.0.0.1",
            worker_dashboard_address=LOOPBACK,
            memory_limit=settings.memory or None,
            silence_logs=logging.CRITICAL,
            preload=[_PRELOAD],
            scheduler_kwargs={
                "allowed_failures": 0,  # the driver counts attempts
                "dashboard": False,
                "dashboard_address": LOOPBACK,  # its small HTTP server listens all the same
            },
        )
