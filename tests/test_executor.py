"""Any executor as an engine: what crosses, what is translated, and who waits for whom."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from msgspec.structs import replace

from imageloom.engines.executor import ExecutorEngine, perform_packed
from imageloom.errors import WorkerLost
from imageloom.model import Item, Limits, Task, Work
from imageloom.scheduling import backlog
from imageloom.scheduling.backlog import Backlog, Entry
from imageloom.stores.names import STAGING
from imageloom.testing.engines import recipe_of


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
    engine = ExecutorEngine(executor, lambda: 1)
    outcome = engine.submit(task_of(red, "blue.png")).result(30)
    engine.close()
    assert outcome.results[0].failure is None
    ((function, packed),) = executor.calls
    assert function is perform_packed
    assert type(packed) is bytes
    assert len(packed) < 1000


def test_bytes_that_are_no_tasks_are_refused() -> None:
    with pytest.raises(Exception, match="Expected `array`"):
        perform_packed(b"\x01")


def test_a_broken_executor_is_a_lost_worker(red: Path) -> None:
    engine = ExecutorEngine(ProcessPoolExecutor(1, get_context("spawn")), lambda: 1)
    with pytest.raises(WorkerLost, match="BrokenProcessPool"):
        engine.submit(task_of(red, "red.png", "crash_on_red")).result(60)
    with pytest.raises(WorkerLost, match="BrokenProcessPool"):  # that cannot even be handed over
        engine.submit(task_of(red, "blue.png", "crash_on_red")).result(60)
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
        (KeyError("its own"), WorkerLost),
        (CancelledError(), CancelledError),
        (ZeroDivisionError("a bug"), ZeroDivisionError),
    ],
)
def test_a_librarys_errors_are_translated(error: Exception, seen: type[Exception], red: Path) -> None:
    engine = ExecutorEngine(Failing(error), lambda: 1, lost=(KeyError,))
    future = engine.submit(task_of(red, "blue.png"))
    with pytest.raises(seen) as found:
        future.result(30)
    engine.close()
    assert found.type is seen


def test_what_no_worker_has_begun_can_be_taken_back(red: Path) -> None:
    executor = Recording(1)
    engine = ExecutorEngine(executor, lambda: 1)
    begun = engine.submit(task_of(red, "blue.png"))
    waiting = engine.submit(task_of(red, "red.png"))
    assert not begun.cancel()
    assert waiting.cancel()
    executor.gate.set()
    assert begun.result(30).results[0].key == "blue.png"
    with pytest.raises(CancelledError):
        waiting.result(30)
    engine.close()
    assert len(executor.calls) == 1


def test_threads_are_filled_from_what_waits(red: Path) -> None:
    """A worker that takes one call at a time gets as many tasks in it as it has threads."""
    executor = Recording(2)
    engine = ExecutorEngine(executor, lambda: 6, threads=3)
    futures = [engine.submit(task_of(red, "blue.png", "toil 0.5", number=number)) for number in range(1, 9)]
    assert len(executor.calls) == 2, "each of the two workers has a call"
    executor.gate.set()
    outcomes = [future.result(30) for future in futures]
    engine.close()
    assert [outcome.task for outcome in outcomes] == list(range(1, 9))
    assert len(executor.calls) == 4, "one task, one task, and six in two calls"
    assert len({outcome.worker for outcome in outcomes[2:5]}) == 3


# Who waits


def entries(red: Path, *attempts: int) -> list[Entry]:
    return [Entry(task_of(red, "blue.png", attempt=attempt)) for attempt in attempts]


def test_what_failed_before_comes_last_and_alone(red: Path) -> None:
    log = Backlog()
    first, second, suspect, other = found = entries(red, 1, 1, 2, 3)
    for entry in (suspect, other, first, second):
        log.add(entry)
    assert log.take(9) == [first, second]
    assert log.take(9) == [], "others are there still"
    log.answered([first, second])
    assert log.take(9) == [suspect]
    assert log.take(9) == [], "it is alone"
    log.answered([suspect])
    assert log.take(9) == [other]
    assert all(entry.future.running() for entry in found)


def test_what_failed_before_does_not_wait_for_ever(red: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Backlog()
    suspect, first, second = entries(red, 2, 1, 1)
    log.add(first)
    assert log.take(9) == [first]
    log.add(suspect)
    log.add(second)
    monkeypatch.setattr(backlog, "LONGEST_WAIT", -1.0)  # it has waited longer
    assert log.take(9) == [], "those that are taken end first"
    log.answered([first])
    assert log.take(9) == [suspect]


def test_what_is_put_back_is_next_and_in_its_order(red: Path) -> None:
    log = Backlog()
    first, second, third = found = entries(red, 1, 1, 1)
    for entry in found:
        log.add(entry)
    assert log.take(2) == [first, second]
    log.put_back([first, second])
    assert log.take(9) == [first, second, third]


def test_what_is_cancelled_is_passed_over(red: Path) -> None:
    log = Backlog()
    first, second = entries(red, 1, 1)
    log.add(first)
    log.add(second)
    assert first.future.cancel()
    assert log.take(1) == [second]
    assert log.clear() == []
    log.add(Entry(replace(second.task, id=2)))
    assert [entry.task.id for entry in log.clear()] == [2]
    assert log.take(1) == []
