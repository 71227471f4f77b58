"""The server: accepts jobs from clients, runs a driver for each job on shared nodes, and reports their
progress."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
from msgspec.structs import replace

from imageloom import operators
from imageloom.engines import Settings
from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.engines.nodes.config import NodesConfig, check_address, check_owner
from imageloom.engines.nodes.engine import Nodes
from imageloom.engines.nodes.limits import host_of
from imageloom.errors import (
    ImageloomError,
    ServerBusy,
    SinkBusy,
    StorageError,
    TaskRefused,
    UsageError,
)
from imageloom.model import Limits, Recipe, Task
from imageloom.service.jobs import Follower, JobFiles, RunningJob, check_id, resumed
from imageloom.service.messages import to_job
from imageloom.service.queue import Bounds, JobQueue
from imageloom.worker.guard import Guard

MOST_LISTED = 100
"""Number of ended jobs in a list."""

log = logging.getLogger(__name__)

LEASE = 10.0
"""Seconds after which a registered node is removed, unless it registers again."""
MOST_ITEMS = 500
"""Maximum number of items in one receipt."""
POLL = 0.05
"""Seconds between two receipts of a job."""
MOST_REQUEST = 128 << 10
"""Maximum size of a job's request, in bytes."""
MOST_OUTPUTS = 100
"""Maximum number of outputs of a job for each input."""


class Server:
    """The gRPC service `ImageProcessingServer`.

    Args:
        config: the nodes known at the start, and the policy that chooses between nodes.
        guard: folders that jobs may read and write, and how nodes decode items at least.
        state: folder of the files that persist when the server ends.
        ledger: path of the ledger; None for the one in the user's state folder.
        patience: time in seconds for which a job continues without its client.
        timeout: time-out of one item, in seconds.
        bounds: its limits.
        hosts: hosts whose nodes any client may register. Other nodes must register themselves.
        durable: flush the outputs and the ledger of each job to the disk.
    """

    def __init__(
        self,
        config: NodesConfig,
        guard: Guard,
        state: Path,
        ledger: Path | None = None,
        patience: float = 30.0,
        timeout: float = 600.0,
        bounds: Bounds = Bounds(),  # noqa: B008 frozen
        hosts: tuple[str, ...] = (),
        durable: bool = True,
    ) -> None:
        self._guard, self._ledger, self._patience = guard, ledger, patience
        self._bounds, self._hosts, self._durable = bounds, hosts, durable
        operators.load_files(guard.operators)
        self._files = JobFiles(state)
        self._jobs: dict[str, RunningJob] = {}
        self._leases: dict[str, tuple[float, str]] = {}
        """For each registered node, by address: the time of its last registration, and the host that registered
        it."""
        self._queue = JobQueue(bounds, self._start)
        self._lock = threading.Lock()
        self._leaving = threading.Event()
        self.engine = Nodes(Settings(timeout=timeout, sandbox=guard.sandbox), config, waits=True)
        for job in resumed(self._files):
            self._begin(job)
        self._thread = threading.Thread(target=self._watch, name="server", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Accept no more jobs, and pause the running ones: items in progress are finished, and jobs resume after a
        restart."""
        self._leaving.set()
        self._thread.join()
        for job in self._queue.close():
            job.put_off()
        for job in list(self._jobs.values()):
            job.pause()
        for job in list(self._jobs.values()):
            with job.change:
                job.change.wait_for(lambda job=job: job.is_over)  # type: ignore[misc]

    def close(self) -> None:
        self.engine.close()

    # Calls

    def Submit(  # noqa: N802
        self, request: pb.JobRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.JobReceipt]:
        job = self._find(request.id)
        if job is None and request.id and (receipt := self._receipt(request.id, context)):
            yield receipt
            return
        if job is None:
            job = self._accept(request, context)
        follower = job.follow()
        context.add_callback(lambda: job.leave(follower))
        with job.change:
            job.change.wait_for(lambda: job.has_begun or job.is_over or job.waits)
        if job.error and not job.has_begun:
            self._forget(job)
            _abort(context, job.error)
        yield from self._receipts(job, follower, context)

    def Follow(  # noqa: N802
        self, request: pb.JobQuery, context: grpc.ServicerContext
    ) -> Iterator[pb.JobReceipt]:
        job = self._find(request.id)
        if job is None:
            yield self._ended(request, context)
            return
        follower = job.follow()
        context.add_callback(lambda: job.leave(follower))
        yield from self._receipts(job, follower, context)

    def Cancel(self, request: pb.JobQuery, context: grpc.ServicerContext) -> pb.JobReceipt:  # noqa: N802
        job = self._find(request.id)
        if job is None:
            return self._ended(request, context)
        self._cancel(job, "it was cancelled")
        return job.receipt()

    def List(self, request: pb.ListQuery, context: grpc.ServicerContext) -> pb.JobList:  # noqa: N802
        jobs = sorted(self._jobs.values(), key=lambda job: (job.waits, -job.started))
        open_ = [job.entry() for job in jobs if not job.is_over]
        return pb.JobList(
            jobs=[*open_, *(pb.JobEntry(receipt=one) for one in self._files.ended(MOST_LISTED))]
        )

    def Register(  # noqa: N802
        self, request: pb.NodeNotice, context: grpc.ServicerContext
    ) -> pb.NodeNoticeReceipt:
        try:
            check_address(request.address)
            host = host_of(context.peer())
            if request.address.rpartition(":")[0] not in self._hosts:
                check_owner(request.address, host)
            if request.leaving:
                self._leases.pop(request.address, None)
                self.engine.leave(request.address)
            else:
                self._lease(request.address, host)
                self.engine.join(request.address)
        except ImageloomError as error:
            _abort(context, error)
        return pb.NodeNoticeReceipt()

    def _lease(self, address: str, host: str) -> None:
        with self._lock:
            if address not in self._leases:
                most = self._bounds.nodes
                own = sum(other == host for _, other in self._leases.values())
                if len(self._leases) >= most or own >= max(1, most // 2):
                    raise ServerBusy(
                        f"the server has {len(self._leases)} nodes, {own} of them of {host or 'this machine'}: "
                        f"it accepts at most {most}, and half of them of one host (--max-nodes)"
                    )
            self._leases[address] = time.monotonic(), host

    def _accept(self, request: pb.JobRequest, context: grpc.ServicerContext) -> RunningJob:
        """Save a job and start it."""
        if self._leaving.is_set():
            context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
        request.id = request.id or secrets.token_hex(8)
        client = host_of(context.peer()) or "this machine"
        try:
            check_id(request.id)
            self._check(request)
            job = RunningJob(request, to_job(request), client)
            self._guard.check_files(job.job.recipe)
            with self._lock:
                if request.id in self._jobs:
                    return self._jobs[request.id]
                self._queue.check(client)
                self._files.accept(request)
                self._begin(job)
        except ImageloomError as error:
            _abort(context, error)
        return job

    def _check(self, request: pb.JobRequest) -> None:
        """Check that a request is within the roots and the limits, before anything of it is accessed."""
        if request.ByteSize() > MOST_REQUEST or len(request.outputs) > MOST_OUTPUTS:
            raise UsageError(
                f"a job's request must have at most {MOST_REQUEST} bytes and {MOST_OUTPUTS} outputs"
            )
        if request.links == "follow":
            raise TaskRefused(
                "a server does not follow links that lead out of the source (--links inside or refuse)"
            )
        if not request.source:
            return
        sink = request.sink or request.source
        recipe = Recipe((), operators=tuple(request.operators))
        self._guard.bounded(Task(0, "-", request.source, sink, recipe, Limits(), ()))

    def _begin(self, job: RunningJob) -> None:
        job.job = replace(job.job, sandbox=self._guard.sandbox)  # clients cannot make it weaker
        self._jobs[job.id] = job
        self._queue.put(job)

    def _start(self, job: RunningJob) -> None:
        job.job = replace(job.job, durable=self._durable)
        job.start(self.engine, self._ledger, self._files, self._queue.is_over, self._guard.folders)

    def _cancel(self, job: RunningJob, why: str) -> None:
        if self._queue.withdraw(job):
            job.drop(why, self._files)
        else:
            job.cancel(why)

    def _find(self, id: str) -> RunningJob | None:
        return self._jobs.get(id)

    def _forget(self, job: RunningJob) -> None:
        with self._lock:
            self._jobs.pop(job.id, None)

    def _ended(self, request: pb.JobQuery, context: grpc.ServicerContext) -> pb.JobReceipt:
        receipt = self._receipt(request.id, context)
        if receipt is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"there is no job {request.id!r} here")
            raise AssertionError("abort raises")
        return receipt

    def _receipt(self, id: str, context: grpc.ServicerContext) -> pb.JobReceipt | None:
        try:
            return self._files.receipt(id)
        except UsageError as error:
            _abort(context, error)
            raise

    def _receipts(
        self, job: RunningJob, follower: Follower, context: grpc.ServicerContext
    ) -> Iterator[pb.JobReceipt]:
        """Yield receipts until the job is over."""
        unsent = follower.unsent
        yield job.receipt()
        while context.is_active():
            with job.change:
                job.change.wait_for(lambda: unsent or job.is_over, 1.0)
                items = [unsent.popleft() for _ in range(min(MOST_ITEMS, len(unsent)))]
                is_over = job.is_over and not unsent
            if is_over and job.is_paused and job.receipt().status == pb.JOB_RUNNING:
                reason = "the server is shutting down; the job continues when the server is back"
                context.abort(grpc.StatusCode.UNAVAILABLE, reason)
            if items or is_over:
                yield job.receipt(items)
            if is_over:
                return
            time.sleep(POLL)

    def _watch(self) -> None:
        """Cancel jobs whose clients have disconnected. Remove finished jobs, and nodes that have not registered
        again."""
        while not self._leaving.wait(0.2):
            try:
                self._check_jobs_and_nodes()
            except Exception:  # the next check may succeed
                log.exception("the check of the jobs and nodes failed")

    def _check_jobs_and_nodes(self) -> None:
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if job.is_over and not job.followers:
                self._forget(job)
            elif not (job.detached or job.followers) and now - job.left_at > self._patience:
                self._cancel(job, f"its client was disconnected for {self._patience:g} s")
        for address, (seen, _) in list(self._leases.items()):
            if now - seen > LEASE:
                self._leases.pop(address, None)
                self.engine.leave(address)


def _abort(context: grpc.ServicerContext, error: Exception) -> None:
    """End the call with the status for an error."""
    code = grpc.StatusCode.INTERNAL
    match error:
        case UsageError():
            code = grpc.StatusCode.INVALID_ARGUMENT
        case TaskRefused():
            code = grpc.StatusCode.PERMISSION_DENIED
        case ServerBusy():
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
        case SinkBusy():
            code = grpc.StatusCode.ABORTED
        case StorageError():
            code = grpc.StatusCode.FAILED_PRECONDITION
    context.abort(code, str(error))
