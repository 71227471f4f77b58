"""Any executor as an engine: what crosses, what is translated, and who waits for whom."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import cv2
import msgspec
import numpy as np
import pytest

from imageloom.engines.executor import ExecutorEngine, ExecutorTransport, perform_packed
from imageloom.model import Failure, Item, Limits, Outcome, Task, Work
from imageloom.stores.names import STAGING
from imageloom.testing.engines import recipe_of
from program import wait_until


@pytest.fixture
def red(tmp_path: Path) -> Path:
    """A folder with a marked image, which harmful operators crash on, and one that is not."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("red.png", (0, 0, 255)), ("blue.png", (255, 0, 0))):
        assert cv2.imwrite(str(folder / name), np.full((20, 20, 3), colour, np.uint8))
    (tmp_path / "out" / STAGING).mkdir(parents=True)
    return folder


def task_of(folder: Path, name: str, text: str = "invert", attempt: int = 1, number: int = 1) -> Task:
    work = Work(Item(name, (folder / name).stat().st_size), (name,), number, attempt)
    sink = folder.parent / "out"
    return Task(number, "1", str(folder), str(sink), recipe_of(text), Limits(), (work,))


class Recording(ThreadPoolExecutor):
    """Keeps what it is given, and how many calls run together."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.calls: list[tuple[object, ...]] = []
        self.gate = threading.Event()

    def submit(self, function: Callable[..., Any], /, *values: Any, **named: Any) -> Future[Any]:
        self.calls.append((function, *values, *named.values()))

        def pass_gate() -> object:
            assert self.gate.wait(60)
            return function(*values, **named)

        return super().submit(pass_gate)


def test_a_function_of_ours_and_bytes_cross_and_nothing_else(red: Path) -> None:
    executor = Recording(1)
    executor.gate.set()
    engine = ExecutorEngine(ExecutorTransport(executor, lambda: 1))
    outcome = engine.submit(task_of(red, "blue.png")).result(30)
    engine.close()
    assert outcome.results[0].failure is None
    ((function, packed),) = executor.calls
    assert function is perform_packed
    assert type(packed) is bytes
    assert len(packed) < 1000


def test_bytes_that_are_no_tasks_are_refused() -> None:
    with pytest.raises(Exception, match="Expected `object`"):
        perform_packed(b"\x01")


def failure_of(engine: ExecutorEngine, task: Task) -> Failure:
    (result,) = engine.submit(task).result(60).results
    assert result.failure is not None
    return result.failure


def test_a_broken_executor_is_a_lost_worker(red: Path) -> None:
    executor = ProcessPoolExecutor(1, get_context("spawn"))
    engine = ExecutorEngine(ExecutorTransport(executor, lambda: 1))
    for name in ("red.png", "blue.png"):  # the second one cannot even be handed over
        failure = failure_of(engine, task_of(red, name, "crash_on_red"))
        assert (failure.kind, failure.transient) == ("WorkerLost", True)
        assert "BrokenProcessPool" in failure.message
    engine.close()


class Failing(ThreadPoolExecutor):
    """Each call raises what it was made with."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(1)
        self._error = error

    def submit(self, function: Callable[..., Any], /, *values: Any, **named: Any) -> Future[Any]:
        def fail() -> None:
            raise self._error

        return super().submit(fail)


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (KeyError("its own"), "WorkerLost"),
        (CancelledError(), "WorkerLost"),
        (ZeroDivisionError("a bug"), "ZeroDivisionError"),
    ],
)
def test_a_librarys_errors_are_translated(error: Exception, seen: str, red: Path) -> None:
    engine = ExecutorEngine(ExecutorTransport(Failing(error), lambda: 1, lost=(KeyError,)))
    assert failure_of(engine, task_of(red, "blue.png")).kind == seen
    engine.close()


def test_what_no_worker_has_begun_can_be_taken_back(red: Path) -> None:
    executor = Recording(1)
    engine = ExecutorEngine(ExecutorTransport(executor, lambda: 1))
    begun = engine.submit(task_of(red, "blue.png"))
    waiting = engine.submit(task_of(red, "red.png"))
    wait_until(begun.running)
    assert not begun.cancel()
    assert waiting.cancel()
    executor.gate.set()
    assert begun.result(30).results[0].key == "blue.png"
    with pytest.raises(CancelledError):
        waiting.result(30)
    engine.close()
    assert len(executor.calls) == 1


def test_results_of_another_task_are_refused(red: Path) -> None:
    """Whatever an executor's worker answers: nothing of it is believed unchecked."""

    class Lying(ThreadPoolExecutor):
        answer = b""

        def submit(self, function: Callable[..., Any], /, *values: Any, **named: Any) -> Future[Any]:
            return super().submit(lambda: self.answer)

    executor = Lying(1)
    engine = ExecutorEngine(ExecutorTransport(executor, lambda: 1))
    task = task_of(red, "blue.png")
    for answer in (b"\xc1", msgspec.msgpack.encode(Outcome(99, "w", ())), msgspec.msgpack.encode([1, 2])):
        executor.answer = answer
        (result,) = engine.submit(task).result(30).results
        assert result.failure is not None
        assert result.failure.kind == "InvalidResult"
    engine.close()


def test_what_failed_before_comes_last_and_alone(red: Path) -> None:
    executor = Recording(4)
    engine = ExecutorEngine(ExecutorTransport(executor, lambda: 4))
    attempts = {1: 1, 2: 2, 3: 1, 4: 3, 5: 1}
    futures = [
        engine.submit(task_of(red, "blue.png", attempt=attempt, number=number))
        for number, attempt in attempts.items()
    ]
    wait_until(lambda: len(executor.calls) == 3)
    executor.gate.set()
    assert [future.result(30).task for future in futures] == [1, 2, 3, 4, 5]
    engine.close()
    tasks = [msgspec.msgpack.decode(cast("bytes", call[1]), type=Task) for call in executor.calls]
    given = [task.work[0].attempt for task in tasks]
    assert given == [1, 1, 1, 2, 3]
