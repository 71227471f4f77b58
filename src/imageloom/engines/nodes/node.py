"""A node: a gRPC service that runs tasks, a limited number at the same time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from random import Random
from typing import TYPE_CHECKING

import grpc

from imageloom import __version__
from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.engines.nodes.config import NodeConfig
from imageloom.engines.nodes.rpc import pack, unpack
from imageloom.errors import ImageloomError, InvalidResult, TaskRefused
from imageloom.model import Failure, Result, Task
from imageloom.scheduling.policies import accepts
from imageloom.system.machine import available_cores
from imageloom.worker.guard import Guard

if TYPE_CHECKING:
    from imageloom.engines.processes import Processes

Ended = Callable[[Callable[[], None]], bool]
"""Registers a function to call when the call of a task ends. Returns False if the call has ended already."""
Runner = Callable[[Task, Ended], Iterator[Result | None]]
"""Runs a task, and yields the results of its items in their order. Yields None after `LAG` seconds without a
result."""
Arrived = SimpleQueue[tuple[int, Result] | None]
"""A queue of positions of items and their results. None is the end."""

LAG = 0.1
"""Maximum time in seconds for which a result waits for others, to reduce the number of messages."""
WAITING_CALLS = 16
"""Number of calls that a node handles in addition to those of its tasks in progress."""


def supervised(engine: Processes) -> Runner:
    """A runner with supervised processes: the death of a process fails only its item in progress.

    A task is abandoned if its call ends early: the caller has ended a hung item, or has disconnected.
    """

    def run(task: Task, ended: Ended) -> Iterator[Result | None]:
        arrived: Arrived = SimpleQueue()
        future = engine.submit(task, lambda place, result: arrived.put((place, result)))
        future.add_done_callback(lambda _: arrived.put(None))
        if not ended(lambda: engine.abandon(future)):
            engine.abandon(future)
        yield from in_order(arrived, len(task.work))

    return run


def in_order(arrived: Arrived, items: int) -> Iterator[Result | None]:
    """Yield the results of this number of items, like a `Runner`."""
    early: dict[int, Result] = {}
    for place in range(items):
        while place not in early:
            try:
                found = arrived.get(timeout=LAG)
            except Empty:
                yield None
                continue
            if found is None:
                return
            early[found[0]] = found[1]
        yield early.pop(place)


class Node:
    """The gRPC service `ImageProcessingNode`.

    Args:
        run: runs a task.
        config: its configuration, with a limit above 0.
        guard: the limits of its tasks; None for the roots and operators of the configuration.
    """

    def __init__(self, run: Runner, config: NodeConfig, guard: Guard | None = None) -> None:
        self._run = run
        self._config = config
        self._guard = guard or Guard(config.roots, config.operators)
        self._random = Random(config.seed)
        self._room = threading.Semaphore(config.limit)
        self._in_hand = 0
        self._lock = threading.Lock()
        self._leaving = threading.Event()

    def leave(self) -> None:
        """Accept no more tasks."""
        self._leaving.set()

    @property
    def is_idle(self) -> bool:
        return self._in_hand == 0

    @property
    def load(self) -> float:
        """Load from 0 to 1: the configured load, or that of the machine in the last minute."""
        if self._config.load == "auto":
            return min(1.0, os.getloadavg()[0] / available_cores())
        return self._config.load

    def Describe(self, request: pb.NodeQuery, context: grpc.ServicerContext) -> pb.NodeStatus:  # noqa: N802
        return pb.NodeStatus(
            limit=self._config.limit,
            load=self.load,
            in_hand=self._in_hand,
            leaving=self._leaving.is_set(),
            acceptance=self._config.acceptance,
            version=__version__,
        )

    def Perform(  # noqa: N802
        self, request: pb.TaskRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.TaskReceipt]:
        if self._leaving.is_set():
            context.abort(grpc.StatusCode.UNAVAILABLE, "the node is shutting down")
        task = self._task(request, context)
        load = self.load
        with self._lock:
            accepted = request.must_accept or accepts(self._config.acceptance, load, self._random)
            is_slow = self._config.load != "auto" and self._random.random() < load
            self._in_hand += accepted
        if not accepted:
            yield pb.TaskReceipt(status=pb.TASK_REJECTED, message=f"its load is {load:.2f}", load=load)
            return
        try:
            with self._room:
                yield pb.TaskReceipt(load=load)
                if is_slow:
                    time.sleep(self._config.delay)
                yield from self._results(task, context.add_callback, LAG if request.together else 0.0)
        finally:
            with self._lock:
                self._in_hand -= 1

    def _task(self, request: pb.TaskRequest, context: grpc.ServicerContext) -> Task:
        try:
            return self._guard.admitted(unpack(request.task, Task))
        except TaskRefused as error:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except InvalidResult as error:
            reason = f"this node (version {__version__}) cannot read the task: {error}"
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, reason)

    def _results(self, task: Task, ended: Ended, lag: float) -> Iterator[pb.TaskReceipt]:
        """Yield receipts with the items' results, at most one per `lag` seconds. The last one has the final
        status."""
        status, unsaid, due = pb.TASK_SUCCESS, [], time.monotonic() + lag
        for result in self._attempts(task, ended):
            if result is not None:
                unsaid.append(pack(result))
                if result.failure:
                    status = pb.TASK_FAILURE
            if unsaid and time.monotonic() >= due:
                yield pb.TaskReceipt(results=unsaid)
                unsaid, due = [], time.monotonic() + lag
        yield pb.TaskReceipt(status=status, load=self.load, results=unsaid)

    def _attempts(self, task: Task, ended: Ended) -> Iterator[Result | None]:
        """Yield the items' results. If the task cannot begin, each item fails."""
        began, done = time.time(), 0
        try:
            for result in self._run(task, ended):
                done += result is not None
                yield result
        except ImageloomError as error:
            for work in task.work[done:]:
                yield Result(work.item.key, failure=Failure.of(error), started=began)
