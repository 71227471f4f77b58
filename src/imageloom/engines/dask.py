"""The engine dask: processes on this machine, or an existing cluster by its scheduler's address."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import msgspec

from imageloom.engines import Capabilities, Settings
from imageloom.engines.executor import ExecutorEngine, ExecutorTransport, report_all
from imageloom.errors import EngineFailed, MissingExtra, UsageError, WorkerLost
from imageloom.model import Task
from imageloom.scheduling.inbox import log
from imageloom.scheduling.protocol import End, Event

try:
    import dask.config
    import distributed
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker
except ImportError:
    raise MissingExtra("the engine dask", "dask") from None

PATIENCE = 30.0
"""Time-out in seconds for an answer of the Dask scheduler."""
ABSENCE = 90.0
"""Maximum seconds without workers: on a busy machine, one takes half a minute to start again after its death."""
FRESH = 5.0
"""Time in seconds for which the number of workers is cached."""
LOOPBACK = "127.0.0.1:0"
LOST = (KilledWorker, CommClosedError)

_QUIET = {
    "distributed.worker.profile.enabled": False,  # it samples all stacks 100 times per second
    "distributed.admin.tick.interval": "500ms",
}
_PRELOAD = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver handles Ctrl-C: it finishes what is in progress
import imageloom.worker.perform
"""


class Dask(ExecutorEngine):
    """The engine. The cluster replaces workers that die. Dask itself does not retry tasks."""

    capabilities = Capabilities(reports_results=True, ends_items=True, survives_death=True)

    def __init__(self, settings: Settings) -> None:
        self._is_given = bool(settings.connect)
        super().__init__(DaskTransport(settings), settings.timeout)

    @property
    def has_others(self) -> bool:
        return self._is_given


def perform_and_log(packed: bytes, topic: str) -> bytes:
    """Run a task. Its begin and its results are logged as events of this topic, and its outcome is returned."""
    worker = distributed.get_worker()
    task = msgspec.msgpack.decode(packed, type=Task)
    return msgspec.msgpack.encode(report_all(task, worker.address, partial(worker.log_event, topic)))


class DaskTransport(ExecutorTransport):
    """The transport: a task is a call, and messages are events that the Dask scheduler forwards."""

    def __init__(self, settings: Settings) -> None:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        self._own = None if settings.connect else _local_cluster(settings)
        self._topic = f"imageloom-{os.urandom(8).hex()}"
        try:
            self._client = distributed.Client(
                settings.connect or self._own, timeout=PATIENCE, set_as_default=False
            )
            self._client.wait_for_workers(1, timeout=ABSENCE if self._own else PATIENCE)
        except (OSError, ValueError, TimeoutError) as error:
            if self._own:
                self._own.close()
                raise WorkerLost(f"no Dask worker started within {ABSENCE:g} s: {error}") from None
            raise UsageError(
                f"--connect {settings.connect}: cannot connect to the cluster: {error}"
            ) from None
        self._known = settings.jobs * settings.threads
        self._asked = float("-inf")
        self._absence = Absence()
        self._not_to_blame: set[int] = set()
        super().__init__(
            self._client.get_executor(pure=False), self._workers, ahead=2, lost=LOST, reports_begin=True
        )

    def open(self, failed: Callable[[str], None]) -> None:
        self._client.subscribe_topic(self._topic, lambda event: self.report(event[1]))

    def end(self, command: End) -> None:
        """Restart the worker's process. Other tasks in it go to another worker."""
        address = self._begun.get(command.delivery)
        super().end(command)
        if address is None:
            return
        self._not_to_blame.update(number for number, other in self._begun.items() if other == address)
        own = (
            [nanny for nanny in self._own.workers.values() if nanny.worker_address == address]
            if self._own
            else []
        )
        for nanny in own:
            with contextlib.suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)  # the nanny restarts it
        if not own:
            threading.Thread(target=self._restart, args=(address,), name="restart", daemon=True).start()

    def _restart(self, address: str) -> None:
        try:
            self._client.restart_workers([address], timeout=PATIENCE, raise_for_error=False)
        except Exception as error:  # for example a worker without a nanny, or a cluster that has ended
            log.warning("the Dask worker %s cannot be restarted: %s", address, error)

    def close(self, patience: float) -> None:
        if self._executor:
            self._executor.shutdown(wait=False)  # what is left is what Dask does once more for a dead worker
        self._client.close()
        if self._own:
            self._own.close()

    def _call(self, packed: bytes) -> Future[bytes]:
        assert self._executor is not None
        return self._executor.submit(perform_and_log, packed, self._topic)

    def _break(self, number: int, error: BaseException, has_begun: bool) -> list[Event]:
        is_to_blame = number not in self._not_to_blame
        self._not_to_blame.discard(number)
        return super()._break(number, error, has_begun and is_to_blame)

    def _workers(self) -> int:
        """Number of threads of all workers. It may be a few seconds old.

        Raises:
            EngineFailed: no worker was available for `ABSENCE` seconds.
        """
        now = time.monotonic()
        if now > self._asked + FRESH:
            found = 0
            with contextlib.suppress(*LOST, OSError, TimeoutError):  # if it has ended, its futures fail
                found = sum(self._client.nthreads().values())
            self._known = found or self._known
            self._asked = now
            self._absence.note(found, now)
        return self._known


class Absence:
    """How long there have been no workers: since they were first missed, not since they were last seen, because
    nobody looks while an item takes long."""

    def __init__(self) -> None:
        self._since: float | None = None

    def note(self, workers: int, now: float) -> None:
        """Note how many workers there are.

        Raises:
            EngineFailed: there have been none for `ABSENCE` seconds.
        """
        if workers:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now > self._since + ABSENCE:
            raise EngineFailed(f"no Dask worker was available for {ABSENCE:g} s")


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
                "dashboard_address": LOOPBACK,  # without a dashboard it still has a small HTTP server
            },
        )
