"""Sends deliveries to nodes over gRPC. Each delivery has a coroutine in the engine's thread.

A delivery is one call. Its first receipt reports that the node has begun it. Later receipts have results. A node
that cannot be reached, or that shuts down, gets nothing more. It may finish what it has begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.engines.nodes import rpc
from imageloom.errors import InvalidResult
from imageloom.model import Failure, Result
from imageloom.scheduling.protocol import (
    Begun,
    Broken,
    Drop,
    End,
    Event,
    Finished,
    Joined,
    Left,
    Received,
    Refused,
    Returned,
    Send,
)
from imageloom.scheduling.results import refused, shown

PAUSE = 0.2
"""Seconds before a node that could not be reached, or was busy, is tried again."""
SLACK = 5.0
"""Time in seconds that is added to the time-out of an item, for the transfer."""
LAST = 2.0
"""Time in seconds for cancelled calls to end."""
UNBEGUN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.CANCELLED,
)
"""Status codes of a task that a node could not begin, and that other nodes may run."""
REFUSED = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED)
"""Status codes of a task that a node will never run."""

log = logging.getLogger(__name__)


class Node:
    """A node with its connection."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: dict[int, asyncio.Task[None]] = {}
        """Calls in progress, by the number of the delivery."""
        self.is_up = False
        self.trouble = "not connected yet"
        """Why it is not connected."""
        self.is_gone = False
        """Whether it is removed as soon as it has no delivery."""
        self.said: Joined | None = None
        """The last event that was reported about it."""
        self._channel: grpc.aio.Channel | None = None

    def connect(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        # Answers are decoded elsewhere: gRPC would log a traceback for an invalid one.
        self.perform: Any = channel.unary_stream(f"/{rpc.NODE}/Perform", pb.TaskRequest.SerializeToString)
        self.describe: Any = channel.unary_unary(f"/{rpc.NODE}/Describe", pb.NodeQuery.SerializeToString)

    async def close(self) -> None:
        if channel := self._channel:
            self._channel = None
            del self.perform, self.describe  # the thread of gRPC ends when its last object is deleted
            await channel.close()


class NodeTransport:
    """The common part of the transports to local and remote nodes.

    Args:
        metadata: sent with each call.
        timeout: time-out of one item, in seconds; 0 for none.
    """

    def __init__(self, metadata: Any, timeout: float) -> None:
        self._metadata, self._timeout = metadata, timeout
        self._nodes: dict[str, Node] = {}
        self._events: list[Event] = []
        self._loop = asyncio.new_event_loop()
        self._is_closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: Callable[[str], None] = lambda reason: None
        self.answered = threading.Event()
        """Set as soon as a node is connected, or if no node can be."""

    @property
    def nodes(self) -> list[Node]:
        return list(self._nodes.values())

    @property
    def is_reached(self) -> bool:
        """Whether a node is connected."""
        return any(node.is_up for node in list(self._nodes.values()))

    @property
    def troubles(self) -> str:
        """Why nodes are not connected, as text."""
        nodes = list(self._nodes.values())
        return (
            "; ".join(f"{node.name}: {node.trouble}" for node in nodes if not node.is_up)
            or "no node is known"
        )

    # For the engine

    def open(self, failed: Callable[[str], None]) -> None:
        self._failed = failed

    def start(self) -> None:
        raise NotImplementedError("nodes elsewhere start by themselves")

    def send(self, command: Send) -> None:
        if node := self._nodes.get(command.worker):
            call = self._spawn(self._deliver(node, command))
            node.calls[command.task.id] = call
            call.add_done_callback(lambda _: self._has_delivered(node, command.task.id))

    def drop(self, command: Drop) -> None:
        self.end(command)
        self._events.append(Finished(command.worker, command.delivery))

    def end(self, command: End | Drop) -> None:
        """Cancel the call. The node then ends the worker of the delivery."""
        node = self._nodes.get(command.worker)
        if node and (call := node.calls.get(command.delivery)):
            call.cancel()

    def events(self, patience: float | None) -> list[Event]:
        timer = None
        if self._events or patience == 0:
            self._loop.call_soon(self._loop.stop)
        elif patience is not None:
            timer = self._loop.call_later(patience, self._loop.stop)
        self._loop.run_forever()
        if timer:
            timer.cancel()
        events, self._events = self._events, []
        return events

    def wake(self) -> None:
        self._call(self._stop)

    def _stop(self) -> None:
        """Have `events` return. The end of the calls is not interrupted."""
        if not self._is_closing:
            self._loop.stop()

    def close(self, patience: float) -> None:
        self._is_closing = True
        self._loop.run_until_complete(self._end_calls())
        self._loop.close()

    async def _end_calls(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for node in self._nodes.values():
            await node.close()
        if rest := asyncio.all_tasks() - {asyncio.current_task()}:  # tasks of gRPC, of cancelled calls
            await asyncio.wait(rest, timeout=LAST)

    def _call(self, function: Callable[..., object], *args: object) -> None:
        """Call a function in the engine's thread. May be called from any thread."""
        with contextlib.suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(function, *args)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._has_ended)
        return task

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a coroutine of a call failed", exc_info=error)
            self._failed(f"{type(error).__name__}: {error}")

    # Events

    def _report(self, event: Event) -> None:
        self._events.append(event)
        self._stop()

    def _is_up(self, node: Node, slots: int = 1, load: float = 0.0) -> None:
        """Report a connected node, which can get tasks."""
        joined = Joined(node.name, slots, load=load, reports_begin=True)
        if joined != node.said:
            node.said = joined
            self._report(joined)
        node.is_up = True
        self.answered.set()

    def _is_down(self, node: Node, trouble: str) -> None:
        """Report a node that cannot be reached, or that shuts down. Deliveries that it has not begun go to other
        nodes."""
        if node.is_up:
            log.warning("node %s: %s", node.name, trouble)
        node.is_up, node.trouble = False, trouble
        if node.said and node.said.slots and node.calls:
            node.said = Joined(node.name, 0, reports_begin=True)
            self._report(node.said)
        self._forget_idle(node)

    def _forget_idle(self, node: Node) -> None:
        """Remove a node that is not connected and has no delivery."""
        if node.is_up or node.calls:
            return
        if node.said:
            node.said = None
            self._report(Left(node.name))
        if node.is_gone and node.name in self._nodes and not self._is_closing:  # which closes all nodes
            del self._nodes[node.name]
            self._spawn(node.close())

    def _has_delivered(self, node: Node, number: int) -> None:
        del node.calls[number]
        self._forget_idle(node)

    # Calls

    async def _deliver(self, node: Node, command: Send) -> None:
        """Send a delivery to a node, and report the events."""
        number = command.task.id
        try:
            await self._perform(node, command)
        except InvalidResult as error:
            log.warning("refused results from node %s: %s", node.name, error)
            failure = Failure("InvalidResult", f"its node {node.name} sent {error}", True)
            self._report(Broken(node.name, number, failure))
        except Exception as error:  # an invalid answer must not end the engine
            log.exception("node %s: cannot handle its answer", node.name)
            failure = Failure("InvalidResult", f"{type(error).__name__}: {shown(str(error))}", True)
            self._report(Broken(node.name, number, failure))

    async def _perform(self, node: Node, command: Send) -> None:
        number, items = command.task.id, len(command.task.work)
        request = pb.TaskRequest(task=rpc.pack(command.task), must_accept=command.must_accept, together=True)
        seconds = (self._timeout + SLACK) * (command.ahead + items) + SLACK if self._timeout else None
        call = node.perform(request, timeout=seconds, metadata=self._metadata)
        has_begun, done = False, 0
        try:
            async for data in call:
                receipt = _receipt(data)
                if receipt.status == pb.TASK_REJECTED:
                    self._is_rejected(node, number, receipt)
                    return
                if not has_begun:
                    has_begun = True
                    self._report(Begun(node.name, number))
                for packed in receipt.results:
                    if done == items:
                        raise InvalidResult("more results than items")
                    result = _result(packed, node.name)
                    name = "/".join(filter(None, (node.name, result.worker)))
                    self._report(Received(node.name, number, done, result, name))
                    done += 1
            if done < items:
                failure = Failure("WorkerLost", "its node ended the call early", True)
                self._report(Broken(node.name, number, failure))
        except grpc.RpcError as error:
            if done < items:
                await self._has_failed(node, number, has_begun, error)
        finally:
            call.cancel()

    def _is_rejected(self, node: Node, number: int, receipt: Any) -> None:
        if node.said:
            self._is_up(node, node.said.slots, load_of(receipt.load))
        self._report(Refused(node.name, number, "the nodes are busy"))

    async def _has_failed(self, node: Node, number: int, has_begun: bool, error: Any) -> None:
        """Report the event for a failed call."""
        code, reason = error.code(), reason_of(error)
        if has_begun:
            if code == grpc.StatusCode.UNAVAILABLE:
                self._is_down(node, reason)
            reason = f"its node {node.name} died or was disconnected: {reason}"
            self._report(Broken(node.name, number, Failure("WorkerLost", reason, True)))
        elif code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            await asyncio.sleep(PAUSE)
            self._report(Refused(node.name, number, reason, counts=False))
        elif code in UNBEGUN:
            self._is_down(node, reason)
            self._report(Returned(node.name, number))
        elif code in REFUSED:
            self._report(Refused(node.name, number, reason, is_final=True))
        else:
            log.warning("refused an answer from node %s: %s", node.name, reason)
            reason = f"its node {node.name} did not answer: {reason}"
            self._report(Broken(node.name, number, Failure("InvalidResult", reason, True)))


def _receipt(data: bytes) -> Any:
    """Decode a receipt.

    Raises:
        InvalidResult: it cannot be decoded.
    """
    try:
        return pb.TaskReceipt.FromString(data)
    except DecodeError:
        raise InvalidResult("a receipt that cannot be read") from None


def _result(packed: bytes, node: str) -> Result:
    """Decode a result. If that fails, the result is a failure without a key."""
    try:
        return rpc.unpack(packed, Result)
    except InvalidResult as error:
        return refused("", node, shown(str(error)))


def load_of(load: float) -> float:
    """The load that a node reports, limited to 0 to 1."""
    return min(load, 1.0) if load > 0.0 else 0.0


def reason_of(error: Any) -> str:
    if not isinstance(error, grpc.RpcError):
        return str(error)
    details = shown(" ".join(str(error.details()).split()))
    return f"{error.code().name}: {details}"
