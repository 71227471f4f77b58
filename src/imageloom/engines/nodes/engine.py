"""gRPC nodes: tasks are offered to nodes by a policy, and results come back item by item.

Nodes run elsewhere (`imageloom node`), or are processes that this engine starts for itself. Each node has a
thread that keeps asking how it is, and as many threads as it does tasks at once, which bring them to it. A node
that dies costs the items that it had in hand an attempt; one that cannot be reached costs nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from concurrent.futures import Future
from functools import partial
from random import Random
from typing import Any

from msgspec.structs import replace

from imageloom.engines import Capabilities, Engine, Settings
from imageloom.engines.nodes.config import NodesConfig, read_config
from imageloom.engines.nodes.dispatch import Delivery, Dispatcher, NodeRecord
from imageloom.engines.nodes.local import address_in, done_by, serve
from imageloom.errors import InvalidResult, MissingExtra, StorageError
from imageloom.model import Failure, Outcome, Result, Task
from imageloom.scheduling.fleet import Fleet
from imageloom.scheduling.inbox import UNREADABLE, start_thread
from imageloom.scheduling.policies import open_choice
from imageloom.scheduling.results import refused, shown

try:
    import grpc

    from imageloom.engines.nodes import imageloom_pb2 as pb
    from imageloom.engines.nodes import rpc
    from imageloom.engines.nodes.node import LAG
    from imageloom.engines.nodes.security import read_token, token_metadata
except ImportError:
    raise MissingExtra("the engine nodes", "nodes") from None

PERIOD = 1.0
"""Seconds between two questions to a node."""
ANSWER = 5.0
"""Seconds that a node has for the answer."""
FIRST_ANSWER = 10.0
"""Seconds within which one of the nodes must have answered for the first time."""
PATIENCE = 60.0
"""Seconds without any node after which what waits for one is given up."""
MOST_LIMIT = 256
"""Tasks at once of one node, whatever it says."""
MOST_SLOTS = 1024
"""Threads that bring tasks to nodes: beyond that each node has two."""
SLACK = 5.0
"""Seconds beyond an item's time, for the way there and back: a node ends what hangs by itself."""
UNBEGUN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.CANCELLED,
)
"""What a node says, or is said in its place, that could not begin a task and that others may do."""

REFUSED = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED)
"""What a node says that cannot do a task, as no other one could."""

log = logging.getLogger(__name__)


class _Node:
    """A node with its channel and its threads."""

    def __init__(self, record: NodeRecord, channel: grpc.Channel, pid: int = 0) -> None:
        self.record = record
        self.channel = channel
        self.stub = rpc.stubs.ImageProcessingNodeStub(channel)
        self.pid = pid
        """Of a local node; 0 for one elsewhere."""
        self.gone = threading.Event()
        self.threads: list[threading.Thread] = []
        self.slots = 0


class Nodes(Engine):
    """The engine.

    Args:
        settings: with `connect`, addresses with commas between them; with `nodes`, the path of a file; with
            neither of them, as many local nodes as it has jobs.
        config: instead of the file.
        waits: whether tasks wait for nodes that will come, however long: a server's do.

    Raises:
        UsageError: the file makes no sense, or an address needs TLS.
        StorageError: no node answers.
    """

    capabilities = Capabilities(ends_items=True, survives_death=True, refuses=True)

    def __init__(self, settings: Settings, config: NodesConfig | None = None, waits: bool = False) -> None:
        self._settings = settings
        config = config or (read_config(settings.nodes, NodesConfig) if settings.nodes else NodesConfig())
        if settings.connect:
            given = tuple(address.strip() for address in settings.connect.split(","))
            config = replace(config, nodes=(*config.nodes, *given))
        config.check()
        self._config, self._waits = config, waits
        self._metadata = token_metadata(read_token(config.credentials.token))
        self._dispatcher = Dispatcher(
            open_choice(config.choice),
            config.rejections,
            config.fallback == "mandatory",
            config.stragglers,
            Random(config.seed),
        )
        self._nodes: dict[str, _Node] = {}
        self._retired: list[_Node] = []
        self._causes: dict[int, str] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._folder = ""
        self._fleet: Fleet | None = None
        if not config.nodes and not waits:
            self._folder = tempfile.mkdtemp(prefix="imageloom-")
            local = self._folder, settings.memory, settings.guard
            self._fleet = Fleet(serve, local, settings.jobs, self._died, failed=self._dispatcher.fail)
        try:
            for address in config.nodes:
                self.join(address)
            if config.nodes and not waits:
                self._await_first()
        except BaseException:
            self.close()
            raise
        self._thread = start_thread("nodes", self._watch, self._dispatcher.fail)

    @property
    def capacity(self) -> int:
        """What the nodes that are up do at once."""
        return max(self._dispatcher.capacity, self._settings.jobs if self._fleet else 1)

    @property
    def missing(self) -> str:
        return "" if self._dispatcher.capacity else f"no node can be reached: {self._troubles()}"

    def submit(self, task: Task) -> Future[Outcome]:
        return self._dispatcher.submit(task)

    def close(self) -> None:
        """What has not begun is cancelled, what is in hand is waited for."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._dispatcher.cancel()
        if self._thread:
            self._thread.join()
        while not self._dispatcher.is_idle:
            self._end_overdue()
            time.sleep(0.01)
        self._dispatcher.cancel()  # what came back from a node in the meantime
        self._dispatcher.close()
        for node in list(self._nodes.values()):
            self._retire(node, "the engine is closed")
        if self._fleet:
            for pid in self._fleet.pids:
                with contextlib.suppress(ProcessLookupError):  # it has just died
                    os.kill(pid, signal.SIGTERM)
            self._fleet.close()
        for node in self._retired:
            node.channel.close()  # and with it a question that waits for its answer
            for one in node.threads:
                one.join()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    # Nodes come and go

    def join(self, address: str, pid: int = 0) -> None:
        """Use a node from now on; nothing happens where it is known."""
        with self._lock:
            if address in self._nodes or self._closing.is_set():
                return
            channel = rpc.open_channel(address, self._config.credentials)
            node = _Node(self._dispatcher.add(f"node-{pid}" if pid else address), channel, pid)
            self._nodes[address] = node
            self._start(node, self._keep)

    def leave(self, address: str) -> None:
        """Give a node nothing more; what it has in hand it finishes."""
        if node := self._nodes.get(address):
            self._retire(node, "it has left")

    @property
    def known(self) -> list[NodeRecord]:
        return self._dispatcher.nodes

    def _retire(self, node: _Node, why: str) -> None:
        with self._lock:
            for address in [address for address, one in self._nodes.items() if one is node]:
                del self._nodes[address]
                self._retired.append(node)
        node.gone.set()
        self._dispatcher.remove(node.record, why)

    def _forget_retired(self) -> None:
        """Close the connections to nodes that have left, once nothing uses them."""
        for node in list(self._retired):
            if not any(thread.is_alive() for thread in node.threads):
                node.channel.close()
                self._retired.remove(node)

    def _start(self, node: _Node, target: Any) -> None:
        node.threads.append(start_thread(node.record.name, partial(target, node), self._dispatcher.fail))

    def _await_first(self) -> None:
        until = time.monotonic() + FIRST_ANSWER
        while not self._dispatcher.capacity:
            if time.monotonic() > until or all(
                "token" in node.record.trouble for node in self._nodes.values()
            ):
                raise StorageError(f"no node can be reached: {self._troubles()}")
            time.sleep(0.005)

    def _troubles(self) -> str:
        return "; ".join(f"{node.name}: {node.trouble}" for node in self._dispatcher.nodes) or "there is none"

    # A node's threads

    def _keep(self, node: _Node) -> None:
        """Ask a node how it is, again and again."""
        while not node.gone.is_set():
            try:
                status = node.stub.Describe(
                    pb.NodeQuery(), timeout=ANSWER, metadata=self._metadata, wait_for_ready=bool(node.pid)
                )
            except (grpc.RpcError, ValueError) as error:  # a closed channel raises the latter
                self._is_down(node, _reason(error))
            else:
                if status.leaving:
                    self._is_down(node, "it is leaving")
                else:
                    self._is_up(node, status)
            node.gone.wait(PERIOD if node.record.is_up else PERIOD / 5)

    def _is_up(self, node: _Node, status: pb.NodeStatus) -> None:
        if self._fleet and node.pid:
            self._fleet.is_well(node.pid)
        limit = min(max(1, status.limit), MOST_LIMIT)
        room = MOST_SLOTS - sum(other.slots for other in list(self._nodes.values()))
        while node.slots < min(limit + 1, max(2, node.slots + room)):  # one brings what the node does next
            node.slots += 1
            room -= 1
            self._start(node, self._bring)
        self._dispatcher.is_up(node.record, limit, _load(status.load))

    def _is_down(self, node: _Node, trouble: str) -> None:
        if node.record.is_up:
            log.warning("node %s: %s", node.record.name, trouble)
        self._dispatcher.is_down(node.record, trouble)

    def _bring(self, node: _Node) -> None:
        """Bring a node one task after the other."""
        while not (node.gone.is_set() or (self._closing.is_set() and self._dispatcher.is_idle)):
            delivery = self._dispatcher.take(node.record, PERIOD / 5)
            if delivery:
                try:
                    self._deliver(node, delivery)
                except Exception as error:  # whatever a node makes of a call, the next one is brought
                    log.exception("node %s: an answer could not be taken in", node.record.name)
                    lost = Failure("InvalidResult", f"{type(error).__name__}: {shown(str(error))}", True)
                    self._dispatcher.is_lost(delivery, lost)

    def _deliver(self, node: _Node, delivery: Delivery) -> None:
        request = pb.TaskRequest(
            task=rpc.pack(delivery.task), must_accept=delivery.must_accept, together=True
        )
        begun = False
        seconds = (self._settings.timeout + SLACK) * (delivery.ahead + len(delivery.places)) + SLACK
        try:
            call = node.stub.Perform(request, timeout=seconds, metadata=self._metadata)
            delivery.cancel = call.cancel
            if not delivery.ticket.missing:
                call.cancel()
            for receipt in call:
                if receipt.status == pb.TASK_REJECTED:
                    node.record.load = _load(receipt.load)
                    self._dispatcher.is_rejected(delivery)
                    return
                if not begun:
                    begun = True
                    self._dispatcher.has_begun(delivery)
                if receipt.results:
                    found = [_result(result, node.record.name) for result in receipt.results]
                    self._dispatcher.has_results(delivery, found)
            if delivery.done < len(delivery.places):
                self._dispatcher.is_lost(delivery, Failure("WorkerLost", "its node broke off", True))
            else:
                self._dispatcher.is_over(delivery)
        except grpc.RpcError as error:
            self._has_failed(node, delivery, begun, error)
        except InvalidResult as error:
            call.cancel()
            log.warning("refused results of node %s: %s", node.record.name, error)
            lost = Failure("InvalidResult", f"its node {node.record.name} sent {error}", True)
            self._dispatcher.is_lost(delivery, lost)

    def _has_failed(self, node: _Node, delivery: Delivery, begun: bool, error: Any) -> None:
        """What an error of a call means for the task."""
        code, reason = error.code(), _reason(error)
        if not delivery.ticket.missing:
            self._dispatcher.is_unreached(delivery)
        elif begun or delivery.has_expired:
            done = done_by(self._folder, node.pid, delivery.ticket.task.id) if node.pid else 0
            self._dispatcher.is_lost(delivery, self._cause(node, delivery, reason), done)
        elif code in UNBEGUN:
            if code != grpc.StatusCode.RESOURCE_EXHAUSTED:
                self._is_down(node, reason)
            else:
                time.sleep(PERIOD / 5)
            self._dispatcher.is_unreached(delivery, busy=code == grpc.StatusCode.RESOURCE_EXHAUSTED)
        elif code in REFUSED:
            self._dispatcher.is_refused(delivery, Failure("TaskRefused", f"{node.record.name}: {reason}"))
        else:
            log.warning("refused an answer of node %s: %s", node.record.name, reason)
            lost = Failure("InvalidResult", f"its node {node.record.name} gave no answer: {reason}", True)
            self._dispatcher.is_lost(delivery, lost)

    def _cause(self, node: _Node, delivery: Delivery, reason: str) -> Failure:
        if delivery.has_expired:
            why = f"it took more than {self._settings.timeout:g} s (--timeout)"
            return Failure("ItemTimeout", why, True)
        if node.pid:
            until = time.monotonic() + 1.0
            while node.pid not in self._causes and time.monotonic() < until:
                time.sleep(0.005)
            return Failure("WorkerLost", f"its worker died: {self._causes.get(node.pid, reason)}", True)
        self._is_down(node, reason)
        return Failure("WorkerLost", f"its node {node.record.name} died or was cut off: {reason}", True)

    # All nodes together

    def _watch(self) -> None:
        """Start and forget local nodes, end what hangs, give up where there is no node for long."""
        last_up = time.monotonic()
        while not self._closing.wait(0.01 if self._fleet and not self._dispatcher.capacity else 0.1):
            if self._fleet:
                self._follow(self._fleet)
            self._end_overdue()
            self._forget_retired()
            if self._dispatcher.capacity or not self._dispatcher.has_waiting:
                last_up = time.monotonic()
            elif time.monotonic() - last_up > PATIENCE and not self._waits:
                lost = f"no node could be reached for {PATIENCE:g} s: {self._troubles()}"
                self._dispatcher.fail_waiting(Failure("WorkerLost", lost))

    def _follow(self, fleet: Fleet) -> None:
        pids = set(fleet.pids)
        for node in [node for node in list(self._nodes.values()) if node.pid not in pids]:
            self._retire(node, "it died")
        for pid in pids:
            address = address_in(self._folder, pid)
            if address not in self._nodes and os.path.exists(address.removeprefix("unix:")):
                self.join(address, pid)

    def _died(self, pid: int, cause: str) -> None:
        self._causes[pid] = cause

    def _end_overdue(self) -> None:
        local = self._fleet is not None
        for delivery in self._dispatcher.overdue(self._settings.timeout + (LAG if local else SLACK)):
            delivery.has_expired = True
            pid = next((n.pid for n in list(self._nodes.values()) if n.record is delivery.node), 0)
            if self._fleet and pid:
                self._fleet.kill(pid)
            elif delivery.cancel:
                delivery.cancel()


def _result(packed: bytes, node: str) -> Result:
    """A result; a failure without a key in its place where it cannot be read."""
    try:
        return rpc.unpack(packed, Result)
    except UNREADABLE as error:
        return refused("", node, shown(str(error)))


def _load(load: float) -> float:
    """A node's load, whatever it says."""
    return min(load, 1.0) if load > 0.0 else 0.0


def _reason(error: Any) -> str:
    if not isinstance(error, grpc.RpcError):
        return str(error)
    details = shown(" ".join(str(error.details()).split()))
    return f"{error.code().name}: {details}"
