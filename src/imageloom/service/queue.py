"""The queue of a server's jobs. Their number is limited, in total and per client. Clients take turns."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable

from imageloom.errors import ServerBusy
from imageloom.model import Plain
from imageloom.service.jobs import RunningJob


class Bounds(Plain, frozen=True):
    """The limits of a server."""

    running: int = 16
    """Maximum number of jobs that run at the same time."""
    jobs: int = 256
    """Maximum number of jobs that run or wait."""
    client_jobs: int = 64
    """Maximum number of jobs of one client that run or wait."""
    nodes: int = 256
    """Maximum number of registered nodes. One host may have half of them."""
    calls: int = 128
    """Maximum number of concurrent calls of each method. One client may have half of them."""


class JobQueue:
    """The queue. It is thread-safe.

    Args:
        begin: starts a job. Called with a lock held.
    """

    def __init__(self, bounds: Bounds, begin: Callable[[RunningJob], None]) -> None:
        self._bounds, self._begin = bounds, begin
        self._waiting: OrderedDict[str, deque[RunningJob]] = OrderedDict()
        """Waiting jobs by client. The first client is the next one to be served."""
        self._running: set[RunningJob] = set()
        self._closed = False
        self._lock = threading.RLock()

    def check(self, client: str) -> None:
        """Check that one more job is within the limits.

        Raises:
            ServerBusy: it is not. The message has the limit and its option.
        """
        with self._lock:
            count = Counter(job.client for job in self._running)
            count.update({name: len(jobs) for name, jobs in self._waiting.items()})
        if count.total() >= self._bounds.jobs:
            raise ServerBusy(
                f"the server has {self._bounds.jobs} jobs, the maximum (--max-jobs): try again later"
            )
        if count[client] >= self._bounds.client_jobs:
            raise ServerBusy(
                f"the server has {self._bounds.client_jobs} jobs of {client}, the maximum "
                "(--max-client-jobs): try again later"
            )

    def put(self, job: RunningJob) -> None:
        """Add a job. It starts as soon as the limits permit."""
        with self._lock:
            job.waits = True
            self._waiting.setdefault(job.client, deque()).append(job)
            self._fill()

    def is_over(self, job: RunningJob) -> None:
        with self._lock:
            self._running.discard(job)
            self._fill()

    def withdraw(self, job: RunningJob) -> bool:
        """Remove a waiting job. Returns whether it was waiting."""
        with self._lock:
            if not job.waits:
                return False
            self._waiting[job.client].remove(job)
            self._drop_served(job.client)
            job.waits = False
            return True

    def close(self) -> list[RunningJob]:
        """Start no more jobs. Returns the waiting jobs."""
        with self._lock:
            self._closed = True
            return [job for jobs in self._waiting.values() for job in jobs]

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._bounds.running and not self._closed:
            client, jobs = next(iter(self._waiting.items()))
            job = jobs.popleft()
            self._waiting.move_to_end(client)
            self._drop_served(client)
            job.waits = False
            self._running.add(job)
            self._begin(job)

    def _drop_served(self, client: str) -> None:
        if not self._waiting[client]:
            del self._waiting[client]
