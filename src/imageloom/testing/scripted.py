"""An engine for tests that wraps another engine, and loses, delays and repeats tasks by a script."""

from __future__ import annotations

import threading
from collections.abc import Container
from concurrent.futures import Future

from imageloom.engines import Engine
from imageloom.errors import WorkerLost
from imageloom.model import Outcome, Task

PATIENCE = 0.2
"""Seconds without a new task after which held tasks are submitted."""


class ScriptedEngine(Engine):
    """Passes tasks to another engine, with faults from a script, and records them.

    The caller opens and closes the other engine.

    Args:
        engine: the engine that runs the tasks.
        lost: numbers of the submissions, from 1, whose worker dies after the work and before the answer.
        twice: numbers of the submissions that are delivered twice, as a broker may do.
        hold: tasks are held until there are this many, or no more arrive. The latest is then submitted first.
    """

    def __init__(
        self, engine: Engine, *, lost: Container[int] = (), twice: Container[int] = (), hold: int = 0
    ) -> None:
        self.submitted: list[Task] = []
        """All tasks, in the order of submission."""
        self.most_in_flight = 0
        """The maximum number of tasks in flight."""
        self.most_capacity = 0
        """The maximum capacity that was reported: an engine that measures may change it."""
        self._engine = engine
        self._lost, self._twice, self._hold = lost, twice, hold
        self._in_flight = 0
        self._held: list[tuple[int, Task, Future[Outcome]]] = []
        self._change = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._release) if hold else None
        if self._thread:
            self._thread.start()

    @property
    def capacity(self) -> int:
        capacity = self._engine.capacity
        self.most_capacity = max(self.most_capacity, capacity)
        return capacity

    def submit(self, task: Task) -> Future[Outcome]:
        answer: Future[Outcome] = Future()
        with self._change:
            self.submitted.append(task)
            number = len(self.submitted)
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
            if self._hold:
                self._held.append((number, task, answer))
                self._change.notify()
        if not self._hold:
            self._pass_on(number, task, answer)
        return answer

    def close(self) -> None:
        with self._change:
            self._closing = True
            self._change.notify()
        if self._thread:
            self._thread.join()

    def _pass_on(self, number: int, task: Task, answer: Future[Outcome]) -> None:
        if number in self._twice:
            self._engine.submit(task).result()
        self._engine.submit(task).add_done_callback(lambda done: self._answer(number, done, answer))

    def _answer(self, number: int, done: Future[Outcome], answer: Future[Outcome]) -> None:
        with self._change:
            self._in_flight -= 1
        if number in self._lost:
            answer.set_exception(WorkerLost(f"the worker of submission {number} died, by the script"))
        else:
            answer.set_result(done.result())

    def _release(self) -> None:
        while not self._closing:
            with self._change:
                complete = self._change.wait_for(
                    lambda: self._closing or len(self._held) >= self._hold, PATIENCE
                )
                held = self._held if complete or self._held else []
                self._held = []
            for number, task, answer in reversed(held):
                self._pass_on(number, task, answer)
