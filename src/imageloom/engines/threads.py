"""A pool of threads: the codecs and OpenCV let go of the interpreter's lock while they work."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from imageloom.engines import Settings
from imageloom.model import Outcome, Task
from imageloom.work import perform


class Threads:
    def __init__(self, settings: Settings) -> None:
        self.capacity = settings.jobs
        self._pool = ThreadPoolExecutor(settings.jobs, thread_name_prefix="thread")

    def submit(self, task: Task) -> Future[Outcome]:
        return self._pool.submit(perform, task)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
