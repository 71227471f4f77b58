"""Who gets which task: the jobs in turn, a node by a policy, again where one is rejected, lost or slow.

Only the bookkeeping is here, under one lock: what talks to a node takes a delivery from here and says what came
of it. A delivery brings the items of a task that have no result yet. The first result of an item counts.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from random import Random

from msgspec.structs import replace

from imageloom.errors import EngineFailed, InvalidResult
from imageloom.model import Failure, Outcome, Result, Task
from imageloom.scheduling.inbox import fail
from imageloom.scheduling.policies import Choice

MOST_AT_ONCE = 256
"""Tasks that one node does at once, at the most, whatever it says."""
MOST_UNREACHED = 100
"""Times that nodes may turn away one task without a reason of its own, after which that is a failed attempt."""
LEAST_STRAGGLE = 0.5
"""Seconds, at the least, after which a task is slow."""
STRAGGLE = 2.0
"""Mean times of a task after which one is slow."""
BRIEF = 0.2
"""Seconds of a task below which a node has the next one before it needs it: the way there would be felt."""


def is_brief(seconds: float) -> bool:
    """Whether tasks of that mean time are worth having early; 0 for an unknown one."""
    return 0.0 < seconds < BRIEF


@dataclass(eq=False)
class NodeRecord:
    """A node as those see it who choose one."""

    name: str
    limit: int = 1
    load: float = 0.0
    seconds: float = 0.0
    is_up: bool = False
    trouble: str = "not reached yet"
    """Why it is not up."""
    queue: deque[_Ticket] = field(default_factory=deque)
    """Chosen for it, while it has no room."""
    running: set[Delivery] = field(default_factory=set)

    @property
    def in_hand(self) -> int:
        return len(self.queue) + len(self.running)

    @property
    def room(self) -> int:
        """Tasks that it may have with it, one of which waits there."""
        return self.limit + is_brief(self.seconds)


@dataclass(eq=False)
class _Ticket:
    """A task until all its items have results."""

    task: Task
    future: Future[Outcome] = field(default_factory=Future)
    results: dict[int, Result] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)
    rejections: int = 0
    must_accept: bool = False
    harms: int = 0
    """Nodes that worked on it and died, or took too long."""
    deliveries: set[Delivery] = field(default_factory=set)
    unreached: int = 0
    """Deliveries of it that no node has begun."""

    @property
    def may_be_copied(self) -> bool:
        """One delivery of it is under way, and none of its items has harmed a node before."""
        is_fresh = not self.harms and all(work.attempt == 1 for work in self.task.work)
        return len(self.deliveries) == 1 and is_fresh

    @property
    def missing(self) -> list[int]:
        return [place for place in range(len(self.task.work)) if place not in self.results]


@dataclass(eq=False)
class Delivery:
    """A task on its way to one node."""

    ticket: _Ticket
    node: NodeRecord
    places: list[int]
    began: float
    """When it was taken, then when the node began it, by the monotonic clock."""
    ahead: int
    """Items that the node had to do before these."""
    moved: float = float("inf")
    """When it last had a result, or was begun."""
    done: int = 0
    has_expired: bool = False
    cancel: Callable[[], object] | None = None
    """Ends the call, where there is one."""

    @property
    def task(self) -> Task:
        """What the node is to do."""
        work = self.ticket.task.work
        return replace(self.ticket.task, work=tuple(work[place] for place in self.places))

    @property
    def must_accept(self) -> bool:
        return self.ticket.must_accept


class Dispatcher:
    """Tasks and nodes. Safe to use from many threads.

    Args:
        choice: which node a task is offered to.
        rejections: of one task, after which it fails, or falls back.
        fallback: what is rejected too often must then be accepted.
        stragglers: what a slow node does is given to an idle one too, when nothing waits.
    """

    def __init__(
        self, choice: Choice, rejections: int, fallback: bool, stragglers: bool, random: Random
    ) -> None:
        self._choice, self._rejections, self._fallback = choice, rejections, fallback
        self._stragglers, self._random = stragglers, random
        self._nodes: dict[str, NodeRecord] = {}
        self._waiting: OrderedDict[str, deque[_Ticket]] = OrderedDict()
        """By job; the first job is the next to be served."""
        self._mean = 0.0
        """Seconds of a task."""
        self._closed = False
        self._broken = ""
        self._change = threading.Condition()

    # Tasks

    def submit(self, task: Task) -> Future[Outcome]:
        ticket = _Ticket(task)
        with self._change:
            if self._broken:
                ticket.future.set_exception(EngineFailed(self._broken))
            else:
                self._wait(ticket, first=False)
        return ticket.future

    def take(self, node: NodeRecord, patience: float) -> Delivery | None:
        """The next delivery for a node that has room for it; None where there is none for so many seconds."""
        with self._change:
            until = time.monotonic() + patience
            while not self._closed:
                delivery = self._next(node)
                left = until - time.monotonic()
                if delivery or left <= 0:
                    return delivery
                self._change.wait(left)
            return None

    def has_begun(self, delivery: Delivery) -> None:
        """The node is at it."""
        with self._change:
            delivery.began = delivery.moved = time.monotonic()

    def has_results(self, delivery: Delivery, results: Sequence[Result]) -> None:
        """Items have their results, the next ones in the order of the delivery.

        Raises:
            InvalidResult: there are more results than items.
        """
        with self._change:
            if len(results) > len(delivery.places) - delivery.done:
                raise InvalidResult("more results than items")
            for result in results:
                place = delivery.places[delivery.done]
                delivery.done += 1
                if result.failure and not result.key:  # it could not be read
                    result = replace(result, key=delivery.ticket.task.work[place].item.key)
                worker = "/".join(filter(None, (delivery.node.name, result.worker)))
                delivery.ticket.results.setdefault(place, replace(result, worker=worker))
            delivery.moved = time.monotonic()
            self._complete(delivery.ticket, delivery.node.name)

    def is_over(self, delivery: Delivery) -> None:
        """All items of it have results: how long it took says how fast the node is."""
        with self._change:
            seconds = time.monotonic() - delivery.began
            node = delivery.node
            node.seconds += (seconds - node.seconds) * (0.2 if node.seconds else 1.0)
            self._mean += (seconds - self._mean) * (0.1 if self._mean else 1.0)
            self._end(delivery)

    def is_rejected(self, delivery: Delivery) -> None:
        """The node would not take it: another one is asked, so many times."""
        with self._change:
            ticket = delivery.ticket
            ticket.tried.add(delivery.node.name)
            if ticket.tried >= {node.name for node in self._up()}:
                ticket.tried.clear()
            ticket.rejections += 1
            if delivery.must_accept:
                self._fail(
                    ticket,
                    Failure("InvalidResult", f"{delivery.node.name} rejects what it must accept", True),
                )
            elif ticket.rejections >= self._rejections:
                ticket.must_accept = self._fallback
                if not self._fallback:
                    self._fail(ticket, Failure("TaskRejected", self._rejected(ticket)))
            self._end(delivery)

    def _rejected(self, ticket: _Ticket) -> str:
        return (
            f"nodes rejected it {ticket.rejections} times: they are loaded "
            "(in the file of nodes: rejections, fallback: mandatory)"
        )

    def is_refused(self, delivery: Delivery, failure: Failure) -> None:
        """The node cannot do it, and no other one could."""
        with self._change:
            self._fail(delivery.ticket, failure)
            self._end(delivery)

    def is_unreached(self, delivery: Delivery, busy: bool = False) -> None:
        """The node never began it, as it said or because it is `busy`: that is no attempt."""
        with self._change:
            ticket = delivery.ticket
            ticket.unreached += not busy
            if ticket.unreached > MOST_UNREACHED:
                ticket.unreached = 0
                why = (
                    f"no node has begun it in {MOST_UNREACHED} deliveries, the last one {delivery.node.name}"
                )
                self._fail(ticket, Failure("WorkerLost", why, True))
            self._end(delivery)

    def is_lost(self, delivery: Delivery, failure: Failure, done: int = 0) -> None:
        """The node died with it, or is too slow: the item in hand has cost an attempt, the others have not.

        Args:
            done: items of it that were done, if that is more than those that have results here.
        """
        with self._change:
            ticket = delivery.ticket
            ticket.harms += 1
            done = max(done if ticket.harms <= len(ticket.task.work) else 0, delivery.done)
            if done < len(delivery.places) and len(ticket.deliveries) == 1:
                place = delivery.places[done]
                key = ticket.task.work[place].item.key
                began = time.time() - max(0.0, time.monotonic() - delivery.moved)
                ticket.results.setdefault(place, Result(key, failure=failure, started=began))
                self._complete(ticket, delivery.node.name)
            self._end(delivery)

    def overdue(self, seconds: float) -> list[Delivery]:
        """Deliveries whose current item takes longer than that."""
        with self._change:
            limit = time.monotonic() - seconds
            return [d for node in self._nodes.values() for d in node.running if d.moved < limit]

    def fail_waiting(self, failure: Failure) -> None:
        """Give up on all that no node has begun."""
        with self._change:
            for ticket in self._take_back(self._nodes.values()):
                if ticket.future.running() or ticket.future.set_running_or_notify_cancel():
                    self._fail(ticket, failure)

    def cancel(self) -> None:
        """Take back what no node has begun."""
        with self._change:
            for ticket in self._take_back(self._nodes.values()):
                if not ticket.future.cancel():
                    self._fail(ticket, Failure("WorkerLost", "the engine was closed", True))
            self._change.notify_all()

    def fail(self, reason: str) -> None:
        """The engine cannot go on: fail what is not done, and all that is submitted from now on."""
        with self._change:
            self._broken = reason
            running = {delivery.ticket for node in self._nodes.values() for delivery in node.running}
            for ticket in (*self._take_back(self._nodes.values()), *running):
                fail(ticket.future, EngineFailed(reason))
            self._change.notify_all()

    def close(self) -> None:
        """Wake all that wait for a delivery: there will be none."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    # Nodes

    def add(self, name: str) -> NodeRecord:
        with self._change:
            return self._nodes.setdefault(name, NodeRecord(name))

    def is_up(self, node: NodeRecord, limit: int, load: float) -> None:
        """A node has said that it is there, and how it is."""
        with self._change:
            changed = not node.is_up or node.limit != limit
            node.is_up, node.limit, node.load, node.trouble = True, min(max(1, limit), MOST_AT_ONCE), load, ""
            if changed:
                self._change.notify_all()

    def is_down(self, node: NodeRecord, trouble: str) -> None:
        """A node cannot be reached, or leaves: what waits for it goes to others."""
        with self._change:
            node.is_up, node.trouble = False, trouble
            for ticket in reversed(self._take_back([node], waiting=False)):
                self._wait(ticket, first=True)
            self._change.notify_all()

    def remove(self, node: NodeRecord, trouble: str) -> None:
        with self._change:
            self.is_down(node, trouble)
            self._nodes.pop(node.name, None)

    @property
    def capacity(self) -> int:
        """Tasks that the nodes which are up do at once."""
        with self._change:
            return sum(node.limit for node in self._up())

    @property
    def is_idle(self) -> bool:
        with self._change:
            return not any(node.running for node in self._nodes.values())

    @property
    def has_waiting(self) -> bool:
        with self._change:
            return bool(self._waiting) or any(node.queue for node in self._nodes.values())

    @property
    def nodes(self) -> list[NodeRecord]:
        with self._change:
            return list(self._nodes.values())

    # Under the lock

    def _up(self) -> list[NodeRecord]:
        return [node for node in self._nodes.values() if node.is_up]

    def _wait(self, ticket: _Ticket, first: bool) -> None:
        queue = self._waiting.setdefault(ticket.task.job, deque())
        (queue.appendleft if first else queue.append)(ticket)
        self._change.notify_all()

    def _next(self, node: NodeRecord) -> Delivery | None:
        self._deal()
        if not node.is_up or len(node.running) >= node.room:
            return None
        while node.queue:
            ticket = node.queue.popleft()
            if ticket.missing and (ticket.future.running() or ticket.future.set_running_or_notify_cancel()):
                return self._deliver(ticket, node)
        return self._copy_for(node) if self._stragglers and not self._waiting else None

    def _deal(self) -> None:
        """Choose nodes for what waits, as long as one has room; one task of each job in turn."""
        up = self._up()
        most = 2 * sum(node.limit for node in up)
        dealt = sum(node.in_hand for node in up)
        while self._waiting and dealt < most and any(node.in_hand < node.room for node in up):
            job, queue = next(iter(self._waiting.items()))
            ticket = queue.popleft()
            self._waiting.move_to_end(job)
            if not queue:
                del self._waiting[job]
            if not ticket.future.cancelled():
                chosen = self._choice.choose(up, ticket.tried, self._random)
                self._nodes[chosen.name].queue.append(ticket)
                dealt += 1
                self._change.notify_all()

    def _copy_for(self, node: NodeRecord) -> Delivery | None:
        """The slowest delivery of another node, once more."""
        limit = time.monotonic() - max(LEAST_STRAGGLE, STRAGGLE * self._mean)
        slow = [
            delivery
            for other in self._nodes.values()
            for delivery in other.running
            if other is not node and delivery.began < limit and delivery.ticket.may_be_copied
        ]
        slowest = min(slow, key=lambda delivery: delivery.began, default=None)
        if slowest is None or node.name in slowest.ticket.tried or not slowest.ticket.missing:
            return None
        return self._deliver(slowest.ticket, node)

    def _deliver(self, ticket: _Ticket, node: NodeRecord) -> Delivery:
        now = time.monotonic()
        ahead = sum(len(other.places) - other.done for other in node.running)
        delivery = Delivery(ticket, node, ticket.missing, now, ahead)
        node.running.add(delivery)
        ticket.deliveries.add(delivery)
        return delivery

    def _complete(self, ticket: _Ticket, worker: str) -> None:
        """Hand the outcome over where no item is missing; what still works on it need not."""
        if not ticket.missing and not ticket.future.done():
            ordered = tuple(ticket.results[place] for place in range(len(ticket.task.work)))
            ticket.future.set_result(Outcome(ticket.task.id, worker, ordered))
            for delivery in ticket.deliveries:
                if delivery.cancel and delivery.done < len(delivery.places):
                    delivery.cancel()

    def _fail(self, ticket: _Ticket, failure: Failure) -> None:
        for place in ticket.missing:
            key = ticket.task.work[place].item.key
            ticket.results[place] = Result(key, failure=failure, started=time.time())
        self._complete(ticket, "driver")

    def _end(self, delivery: Delivery) -> None:
        """A delivery is no more; what it leaves undone waits again, unless a copy of it is under way."""
        delivery.node.running.discard(delivery)
        delivery.ticket.deliveries.discard(delivery)
        if delivery.ticket.missing and not delivery.ticket.deliveries:
            self._wait(delivery.ticket, first=True)
        self._change.notify_all()

    def _take_back(self, nodes: Iterable[NodeRecord], waiting: bool = True) -> list[_Ticket]:
        """Out of the queues of the nodes, and of those who wait for a node, in their order."""
        found: list[_Ticket] = []
        for node in nodes:
            found += node.queue
            node.queue.clear()
        if waiting:
            found += [ticket for queue in self._waiting.values() for ticket in queue]
            self._waiting.clear()
        return found
