"""Each command ends when it is told to, in each of its states and on each engine, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import pytest

import stopped
from program import wait_until
from stopped import Program, Stage

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")

PROMPT = 2.0
"""Seconds within which a program ends that has nothing in hand, or that was told twice, on an idle machine."""
ENGINES = ("serial", "threads", "processes", "pipeline", "zeromq", "redis", "nodes", "mpi", "dask", "ray")
ELSEWHERE = ("zeromq", "redis", "nodes", "dask")
WHOLE_TASKS = ("nodes", "dask", "ray")
"""Engines that finish the tasks in progress with all their items."""
SLOW_ENGINES = ("mpi", "dask", "ray")


class Situation(NamedTuple):
    """A command in a state, the engines that have it, and the exit code after one signal."""

    enter: Callable[[Stage, str], Program]
    engines: tuple[str, ...]
    code: int
    is_busy: bool = False
    """Items are in hand: the program finishes them after the first signal."""


SITUATIONS = (
    Situation(stopped.run_starting, ("threads", "processes"), 130),
    Situation(stopped.run_listing, ("threads", "processes"), 130),
    Situation(stopped.run_previewing, ("threads",), 130),
    Situation(stopped.run_waiting, ELSEWHERE, 130),
    Situation(stopped.run_working, ENGINES, 130, True),
    Situation(stopped.run_tiles, ("threads", "processes"), 130, True),
    Situation(stopped.watch_idle, ("threads", "processes", "pipeline", "zeromq"), 0),
    Situation(stopped.watch_waiting, ELSEWHERE, 0),
    Situation(stopped.watch_working, ENGINES[:-1], 0, True),
    Situation(stopped.worker_waiting, ("zeromq", "redis"), 0),
    Situation(stopped.worker_working, ("zeromq", "redis"), 0, True),
    Situation(stopped.node_idle, ("nodes",), 0),
    Situation(stopped.node_registering, ("nodes",), 0),
    Situation(stopped.node_working, ("nodes",), 0, True),
    Situation(stopped.server_idle, ("nodes",), 0),
    Situation(stopped.server_waiting, ("nodes",), 0),
    Situation(stopped.server_working, ("nodes",), 0, True),
    Situation(stopped.submit_connecting, ("nodes",), 130),
    Situation(stopped.submit_waiting, ("nodes",), 130),
    Situation(stopped.submit_working, ("nodes",), 130, True),
    Situation(stopped.bench_working, ("threads",), 130),
    Situation(stopped.chaos_working, ("processes",), 130),
    Situation(stopped.scenario_working, ("nodes",), 130),
    Situation(stopped.look_working, ("",), 130),
    Situation(stopped.demo_working, ("threads",), 130),
    Situation(stopped.plan_starting, ("",), 130),
    Situation(stopped.dead_connecting, ("redis",), 130),
)

SLOW = (
    stopped.run_previewing,
    stopped.server_waiting,
    stopped.submit_waiting,
    stopped.node_working,
    stopped.server_working,
    stopped.submit_working,
    stopped.bench_working,
    stopped.chaos_working,
    stopped.scenario_working,
)


class Case(NamedTuple):
    situation: Situation
    engine: str
    number: signal.Signals
    is_twice: bool

    def __str__(self) -> str:
        times = "twice" if self.is_twice else "once"
        return f"{self.situation.enter.__name__}-{self.engine}-{self.number.name}-{times}"


def cases() -> Iterator[Case]:
    for situation in SITUATIONS:
        for engine in situation.engines:
            for number in (signal.SIGINT, signal.SIGTERM):
                for is_twice in (False, True):
                    yield Case(situation, engine, number, is_twice)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tmp_path, stack)


def usual() -> list[Case]:
    """A choice with each situation, and with each two of engine, signal and number of signals, without what takes
    long."""
    cheap = [case for case in cases() if case.situation.enter not in SLOW and case.engine not in SLOW_ENGINES]

    def pairs(case: Case) -> set[object]:
        engine, number, is_twice = case.engine, case.number, case.is_twice
        return {case.situation.enter, (engine, number), (engine, is_twice), (number, is_twice)}

    left = {pair for case in cheap for pair in pairs(case)}
    chosen: list[Case] = []
    while left:
        best = max(cheap, key=lambda case: len(pairs(case) & left))
        chosen.append(best)
        left -= pairs(best)
    return chosen


@pytest.mark.parametrize("case", usual(), ids=str)
def test_it_ends(case: Case, stage: Stage) -> None:
    must_end(case, stage)


@pytest.mark.long
@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_it_ends_in_every_case(case: Case, stage: Stage) -> None:
    must_end(case, stage)


def must_end(case: Case, stage: Stage) -> None:
    if case.engine in ("mpi", "dask", "ray"):
        pytest.importorskip({"mpi": "mpi4py", "dask": "distributed"}.get(case.engine, case.engine))
    program = case.situation.enter(stage, case.engine)
    program.note_family()
    begun = stage.begun
    told = time.monotonic()
    program.process.send_signal(case.number)
    if case.is_twice:
        if case.situation.is_busy:
            program.until(lambda: "a second signal" in program.text)
        program.process.send_signal(case.number)
        told = time.monotonic()
    elif case.situation.is_busy:
        program.until(lambda: "a second signal" in program.text)
        program.note_family()
        stage.let_go()
        told = time.monotonic()
    wait_until(lambda: program.process.poll() is not None, 6)
    took = time.monotonic() - told
    codes = {case.situation.code}
    if case.is_twice or case.engine == "dask":  # it may come while the interpreter ends
        codes |= {130, -case.number}
    assert program.process.returncode in codes, program.text
    assert "Traceback" not in program.text
    if case.engine not in WHOLE_TASKS:
        assert stage.begun <= begun + 4, "what was not begun is left"
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not program.leftovers(), 5)
    assert program.leftovers() == []
    cores = os.cpu_count() or 1
    assert took < PROMPT * max(1.0, os.getloadavg()[0] / cores), program.text
    if program.command in ("run", "watch", "demo"):
        assert not running_jobs(stage)


def running_jobs(stage: Stage) -> list[int]:
    """The jobs that the ledger takes for running."""
    ledger = stage.folder / "state" / "imageloom" / "ledger.db"
    if not ledger.exists():
        return []
    with closing(sqlite3.connect(ledger)) as book, book:
        return [job for (job,) in book.execute("SELECT id FROM jobs WHERE state = 'running'")]
