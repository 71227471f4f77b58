"""Several flows share one engine: they take turns, and new arrivals go first.

The engine gets only as many tasks as keep its workers busy. The others wait here, by flow. So a task of a watched
folder waits for the tasks that have begun, and not for a bulk run. A bulk run still gets a share of the turns: a
watched folder may have a backlog.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from concurrent.futures import Future

from imageloom.engines import Engine, Settings, submit
from imageloom.model import Outcome, Part, Plain, Task
from imageloom.scheduling.results import ResultCallback
from imageloom.worker.guard import Guard

SHARE = 4
"""One of so many turns is that of a bulk run, if one waits."""
AHEAD = 2
"""Tasks in the engine per worker: one in progress, and one so that the worker need not wait."""


class InHand(Plain, frozen=True):
    """A task in the engine."""

    flow: str
    keys: tuple[str, ...]
    since: float
    """When the engine got it, in seconds since the epoch."""
    part: Part | None = None
    """The part of a large image that it is about."""


class Held(Plain, frozen=True):
    """An item that a worker processes."""

    flow: str
    key: str
    seconds: float
    """For how long."""
    part: int | None
    """The number of the tile, of a large image."""


class WorkerView(Plain, frozen=True):
    """A worker of the engine with what it has."""

    name: str
    slots: int
    load: float
    items: tuple[Held, ...]
    waiting: int
    """Number of tasks that were sent to it and have not begun."""


class _Turn(Future[Outcome]):
    """The future of a task that waits or is in the engine."""

    def __init__(self, flow: FlowEngine, task: Task, on_result: ResultCallback) -> None:
        super().__init__()
        self.flow, self.task, self.on_result = flow, task, on_result
        self.given = task
        """The task as the engine gets it, with the limits of all tasks."""
        self.inner: Future[Outcome] | None = None
        self.since = 0.0
        """When the engine got it; 0 while it waits."""

    def cancel(self) -> bool:
        """Cancel the task, if no worker has begun it."""
        with self.flow.turns.lock:
            if not self.since:
                return super().cancel()
            inner = self.inner
        return inner is not None and inner.cancel()  # then `_end` cancels this one, too


class Turns:
    """Shares an engine.

    Args:
        engine: the engine; the caller closes it.
        guard: the limits of all tasks.
    """

    def __init__(self, engine: Engine, guard: Guard) -> None:
        self.engine = engine
        self.lock = threading.RLock()
        self._guard = guard
        self._waiting: tuple[OrderedDict[FlowEngine, deque[_Turn]], ...] = (OrderedDict(), OrderedDict())
        """The waiting tasks of new arrivals, and of bulk runs, by flow. The first flow is the next one."""
        self._inside: dict[_Turn, None] = {}
        self._count = 0
        """Number of turns."""
        self._calls = 0
        """Number of calls of `_fill` since the one in progress began, with that one."""

    @property
    def in_hand(self) -> list[InHand]:
        """The tasks in the engine, the oldest first."""
        with self.lock:
            inside = list(self._inside)
        return [
            InHand(t.flow.name, tuple(w.item.key for w in t.task.work), t.since, t.task.part) for t in inside
        ]

    @property
    def workers(self) -> list[WorkerView]:
        """The workers with what each has, by name; empty if the engine cannot say it."""
        with self.lock:
            flows = {id(turn.given): turn.flow.name for turn in self._inside}
        views = []
        for state in self.engine.worker_states:
            items = tuple(
                Held(
                    flows.get(id(one.task), ""),
                    one.key,
                    one.seconds,
                    one.task.part.number if one.task.part else None,
                )
                for one in state.items
            )
            views.append(WorkerView(state.name, state.slots, state.load, items, state.waiting))
        return sorted(views, key=lambda view: view.name)

    def add(self, turn: _Turn) -> None:
        with self.lock:
            self._waiting[not turn.flow.is_urgent].setdefault(turn.flow, deque()).append(turn)
        self._fill()

    def cut_short(self, flow: FlowEngine, task: Task) -> None:
        """Have the engine finish only the items in progress of a flow's task."""
        with self.lock:
            given = [turn.given for turn in self._inside if turn.flow is flow and turn.task is task]
        for bounded in given:
            self.engine.cut_short(bounded)

    def _fill(self) -> None:
        """Give the engine the next tasks. A call during another one returns at once: the other one continues."""
        with self.lock:
            self._calls += 1
            if self._calls > 1:
                return
        try:
            while True:
                while turn := self._take():
                    self._give(turn)
                with self.lock:
                    if self._calls == 1:
                        self._calls = 0
                        return
                    self._calls = 1  # a task has ended or arrived meanwhile
        except BaseException:
            self._calls = 0
            raise

    def _give(self, turn: _Turn) -> None:
        """Give a task to the engine."""
        try:
            turn.given = self._guard.bounded(turn.task)
            inner = submit(self.engine, turn.given, turn.on_result)
        except Exception as error:  # it is refused, or cannot be sent: a failure of its items
            inner = Future()
            inner.set_exception(error)
        with self.lock:
            turn.inner = inner
        inner.add_done_callback(lambda done: self._end(turn, done))

    def _take(self) -> _Turn | None:
        """Remove the next task from those that wait; None if the engine has enough."""
        with self.lock:
            if len(self._inside) >= AHEAD * max(1, self.engine.capacity):
                return None
            order = self._waiting if (self._count + 1) % SHARE else self._waiting[::-1]
            for flows in order:
                for flow in list(flows):
                    if flow.most and flow.inside >= flow.most:
                        continue
                    turn = self._first(flows[flow])
                    flows.move_to_end(flow)
                    if not flows[flow]:
                        del flows[flow]
                    if turn is None:
                        continue
                    self._count += 1
                    turn.since = time.time()
                    flow.inside += 1
                    self._inside[turn] = None
                    return turn
        return None

    @staticmethod
    def _first(turns: deque[_Turn]) -> _Turn | None:
        """The first task that was not cancelled."""
        while turns:
            turn = turns.popleft()
            if not turn.cancelled():
                return turn
        return None

    def _end(self, turn: _Turn, inner: Future[Outcome]) -> None:
        with self.lock:
            turn.flow.inside -= 1
            del self._inside[turn]
        if inner.cancelled():
            Future.cancel(turn)
            turn.set_running_or_notify_cancel()
        elif turn.set_running_or_notify_cancel():
            if error := inner.exception():
                turn.set_exception(error)
            else:
                turn.set_result(inner.result())
        self._fill()


class FlowEngine(Engine):
    """The engine as one flow sees it.

    Args:
        name: of the flow.
        is_urgent: its tasks go before those of flows that are not urgent.
        most: maximum number of its tasks in the engine; 0: no maximum.
    """

    def __init__(self, turns: Turns, name: str, is_urgent: bool, most: int = 0) -> None:
        self.turns, self.name, self.is_urgent, self.most = turns, name, is_urgent, most
        self.inside = 0
        """Number of its tasks in the engine. Changed with the lock held."""
        self.capabilities = turns.engine.capabilities
        self.settings: Settings = turns.engine.settings

    @property
    def has_others(self) -> bool:
        return self.turns.engine.has_others

    @property
    def missing(self) -> str:
        return self.turns.engine.missing

    @property
    def capacity(self) -> int:
        capacity = self.turns.engine.capacity
        return min(capacity, self.most) if self.most else capacity

    def submit(self, task: Task, on_result: ResultCallback = lambda place, result: None) -> Future[Outcome]:
        turn = _Turn(self, task, on_result)
        self.turns.add(turn)
        return turn

    def cut_short(self, task: Task) -> None:
        self.turns.cut_short(self, task)

    def close(self) -> None:
        """Do nothing: the engine belongs to all flows."""
