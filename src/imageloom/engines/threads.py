"""A pool of threads: the codecs and OpenCV let go of the interpreter's lock while they work."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from imageloom.engines import Settings
from imageloom.model import Outcome, Task
from imageloom.work import NO_BOUND, Turn, perform


class Threads:
    shares_memory = True

    def __init__(self, settings: Settings) -> None:
        self.capacity = max(settings.jobs, settings.in_flight)
        self._pool = ThreadPoolExecutor(self.capacity, thread_name_prefix="thread")
        is_bounded = self.capacity > settings.jobs
        self._computing: Turn = threading.BoundedSemaphore(settings.jobs) if is_bounded else NO_BOUND

    def submit(self, task: Task) -> Future[Outcome]:
        return self._pool.submit(perform, task, self._computing)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
