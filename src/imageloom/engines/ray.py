"""The engine ray: processes on this machine, or an existing cluster by its address."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import msgspec

from imageloom.engines import Capabilities, Settings
from imageloom.engines.executor import ExecutorEngine, ExecutorTransport
from imageloom.errors import MissingExtra, UsageError
from imageloom.model import Task
from imageloom.scheduling.protocol import End, Send
from imageloom.worker.message import Message
from imageloom.worker.perform import results, worker_name

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # on loopback; an existing cluster has its own mode

try:
    import ray
    from ray import exceptions
except ImportError:
    raise MissingExtra("the engine ray", "ray") from None

LONGEST = 20
"""Maximum length of the temporary folder's path: Ray adds 87 characters, and a socket's path may have 107."""
FRESH = 5.0
"""Time in seconds for which the number of cores of an existing cluster is cached."""
LOST = (
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.OutOfMemoryError,
    exceptions.ObjectLostError,
    exceptions.LocalRayletDiedError,
)


class Ray(ExecutorEngine):
    """The engine. Ray replaces workers that die. Ray itself does not retry tasks."""

    capabilities = Capabilities(reports_results=True, ends_items=True, survives_death=True)

    def __init__(self, settings: Settings) -> None:
        self._is_given = bool(settings.connect)
        super().__init__(RayTransport(settings), settings.timeout)

    @property
    def has_others(self) -> bool:
        return self._is_given


def perform_and_yield(packed: bytes) -> Iterator[bytes]:
    """Run a task. Yields a message for its begin, then one for each result."""
    task = msgspec.msgpack.decode(packed, type=Task)
    yield msgspec.msgpack.encode(Message(task.id, worker=worker_name()))
    for place, result in enumerate(results(task)):
        yield msgspec.msgpack.encode(Message(task.id, place, worker_name(), result))


class RayTransport(ExecutorTransport):
    """The transport: a task is a call of a generator, which yields the messages. An event loop waits for them."""

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
            raise UsageError(
                f"--connect {settings.connect}: cannot connect to the cluster: {error}"
            ) from None
        self._function = ray.remote(num_cpus=1, max_retries=0, num_returns="streaming")(perform_and_yield)
        self._calls: dict[int, Any] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ray", daemon=True)
        super().__init__(None, self._cores, ahead=2, lost=LOST, reports_begin=True)

    def open(self, failed: Callable[[str], None]) -> None:
        self._thread.start()

    def send(self, command: Send) -> None:
        self._number = command.task.id
        super().send(command)

    def end(self, command: End) -> None:
        """Kill the process that runs a task. It runs no other task."""
        super().end(command)
        if call := self._calls.pop(command.delivery, None):
            ray.cancel(call, force=True)

    def close(self, patience: float) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread.is_alive():
            self._thread.join()
        self._loop.close()
        ray.shutdown()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _call(self, packed: bytes) -> Future[bytes]:
        call = self._calls[self._number] = self._function.remote(packed)
        return asyncio.run_coroutine_threadsafe(self._follow(call), self._loop)

    async def _follow(self, call: Any) -> bytes:
        async for message in call:
            self.report(await message)
        return b""

    def _forget(self, number: int) -> None:
        super()._forget(number)
        self._calls.pop(number, None)

    def _cores(self) -> int:
        """Number of cores of all nodes."""
        if time.monotonic() > self._asked + FRESH:
            self._known = max(1, int(ray.cluster_resources().get("CPU", 1)))
            self._asked = time.monotonic()
        return self._known
