"""A pool of threads: the codecs and OpenCV let go of the interpreter's lock while they work."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from imageloom.controller import fixed, for_requests
from imageloom.engines import Settings
from imageloom.model import Outcome, Task
from imageloom.pool import SizedExecutor
from imageloom.work import NO_BOUND, Turn, perform


class Threads:
    shares_memory = True

    def __init__(self, settings: Settings) -> None:
        jobs = settings.jobs
        self._controller = for_requests(settings.in_flight, jobs) if settings.waits else fixed(jobs)
        self._pool = SizedExecutor(self._controller, "thread")
        # One more than there are workers: it goes on while another hands its turn over, which takes Python's lock.
        self._computing: Turn = threading.BoundedSemaphore(jobs + 1) if settings.waits else NO_BOUND

    @property
    def capacity(self) -> int:
        return self._controller.size

    def submit(self, task: Task) -> Future[Outcome]:
        return self._pool.submit(perform, task, self._computing)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
