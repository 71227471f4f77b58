"""Runs a target on its corpus and on mutations, in a child process with limits of time and memory."""

from __future__ import annotations

import faulthandler
import hashlib
import logging
import mmap
import multiprocessing
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import IO, Any, NamedTuple

from imageloom.testing.fuzzing.coverage import LineCoverage
from imageloom.testing.fuzzing.mutations import mutated
from imageloom.testing.fuzzing.target import MOST_BYTES, MOST_MEMORY, MOST_SECONDS, Target

CORPUS = Path("tests/fuzz_corpus")
"""A folder for each target, or for each format of image files."""
_MOST_KEPT = 2000
"""Maximum number of inputs that are kept because they have reached new lines."""
_MOST_ADDED = 1000
"""Maximum size of an input that is added to the corpus because it has reached new lines, in bytes."""
_HANG = 10.0
"""Processor time in seconds after which an execution is interrupted."""
_LAST = 60.0
"""Time in seconds after its end after which a child is killed."""
_MEASURED = 4
"""The coverage of one of so many mutations is measured, because that takes time."""
_FAULT = 1
_SIZE = 8


class Plan(NamedTuple):
    """How each target is run."""

    seconds: float = 60.0
    executions: int = 0
    """Maximum number of executions; 0 for no limit."""
    seed: int = 0
    corpus: Path = CORPUS
    keep: bool = False
    """Add small inputs that reach new lines to the corpus."""
    guided: Any = None
    """The module atheris; None for the loop of this module."""


class Outcome(NamedTuple):
    """What became of a target."""

    executions: int
    covered: int
    """Number of lines, or of edges if atheris was used."""
    fault: str = ""
    """What is wrong, with the traceback."""
    culprit: bytes = b""
    """The input that shows it."""


class Slow(BaseException):
    """An execution has taken too long. It is no `Exception`, so that no parser handles it."""


class Notes:
    """Memory that a child process shares with its parent: the number of executions, and the current input."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 2 * _SIZE + MOST_BYTES)
        self.executions = 0

    def begin(self, data: bytes) -> None:
        """Count an execution, and note its input."""
        self.executions += 1
        self._memory[: 2 * _SIZE] = self.executions.to_bytes(_SIZE) + len(data).to_bytes(_SIZE)
        self._memory[2 * _SIZE : 2 * _SIZE + len(data)] = data

    def read(self) -> tuple[int, bytes]:
        """The number of executions, and the last input."""
        size = int.from_bytes(self._memory[_SIZE : 2 * _SIZE])
        return int.from_bytes(self._memory[:_SIZE]), self._memory[2 * _SIZE : 2 * _SIZE + size]


def inputs_of(target: Target, corpus: Path) -> list[bytes]:
    """The seeds of a target and the files of its corpus, each once."""
    files = sorted(path for path in (corpus / target.corpus).glob("*") if path.is_file())
    found = [*target.seeds(), *(path.read_bytes() for path in files)] or [b"\0"]
    return [data[:MOST_BYTES] for data in dict.fromkeys(found)]


def add_to_corpus(target: Target, corpus: Path, data: bytes) -> Path:
    """Write an input into the corpus of a target. Returns its path."""
    path = corpus / target.corpus / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def run(target: Target, plan: Plan) -> Outcome:
    """Run a target in a child process. A crash of the child is a fault of the target."""
    notes, inputs = Notes(), inputs_of(target, plan.corpus)
    with tempfile.TemporaryFile("w+") as log:
        child = multiprocessing.get_context("fork").Process(
            target=_child, args=(target, inputs, plan, notes, log)
        )
        child.start()
        child.join(plan.seconds + _LAST)
        if child.exitcode is None:
            child.kill()
            child.join()
        log.seek(0)
        text = log.read()
    executions, data = notes.read()
    covered = max((int(number) for number in re.findall(r"\bcov: (\d+)", text)), default=0)
    if child.exitcode == 0:
        return Outcome(executions, covered)
    cause = f"it ended with {child.exitcode}\n" if child.exitcode != _FAULT else ""
    return Outcome(executions, covered, f"{cause}{text}", data)


def _child(target: Target, inputs: list[bytes], plan: Plan, notes: Notes, log: IO[str]) -> None:
    for descriptor in (1, 2):
        os.dup2(log.fileno(), descriptor)
    sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 until the child ends
    faulthandler.enable(2)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, _interrupt)
    if plan.guided is not None:
        _guided(target, inputs, plan, notes)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST_MEMORY,) * 2)
    coverage = LineCoverage()
    try:
        _fuzz(target, inputs, plan, notes, coverage)
        code = 0
    except BaseException:
        sys.settrace(None)
        traceback.print_exc()
        code = _FAULT
    sys.stderr.write(f"cov: {coverage.lines}\n")
    os._exit(code)


def _interrupt(*_: object) -> None:
    raise Slow(f"more than {_HANG:g} s of processor time")


def execute(target: Target, data: bytes, notes: Notes) -> bool:
    """Run a target on an input, within its time. Returns whether it was accepted.

    Raises:
        Exception: it is not expected.
        Slow: it took too long.
    """
    notes.begin(data)
    signal.setitimer(signal.ITIMER_PROF, _HANG)
    began = time.process_time()
    try:
        return target.execute(data)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        if (spent := time.process_time() - began) > MOST_SECONDS:
            raise Slow(f"{spent:.1f} s of processor time")


def _fuzz(target: Target, inputs: Sequence[bytes], plan: Plan, notes: Notes, coverage: LineCoverage) -> None:
    """Run a target on all inputs, then on mutations of them. An input that reaches new lines is mutated, too."""
    chance, kept = Random(f"{plan.seed} {target.name}"), list(inputs)
    for data in inputs:
        with coverage.measured():
            execute(target, data, notes)
    end = time.monotonic() + plan.seconds
    while time.monotonic() < end and (not plan.executions or notes.executions < plan.executions):
        data, before = mutated(target, kept, chance), coverage.lines
        with coverage.measured() if notes.executions % _MEASURED == 0 else nullcontext():
            execute(target, data, notes)
        if coverage.lines > before and len(kept) < _MOST_KEPT:
            kept.append(data)
            if plan.keep and len(data) <= _MOST_ADDED:
                add_to_corpus(target, plan.corpus, data)


def _guided(target: Target, inputs: Sequence[bytes], plan: Plan, notes: Notes) -> None:
    """Let atheris choose the inputs. It ends the process."""
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(inputs):
            Path(folder, f"{number}").write_bytes(data)
        options = {
            "max_total_time": max(1, round(plan.seconds)),
            "runs": plan.executions or -1,
            "max_len": MOST_BYTES,
            "seed": plan.seed + 1,
            "timeout": round(_HANG),
            "rss_limit_mb": 2 * MOST_MEMORY >> 20,
            "print_final_stats": 1,
        }
        arguments = [sys.argv[0], folder, *(f"-{name}={value}" for name, value in options.items())]

        def test(data: bytes) -> None:
            execute(target, data, notes)

        def change(data: bytes, most: int, seed: int) -> bytes:
            chance = Random(seed)
            found: bytes = mutated(target, [data or b"\0"], chance) if seed % 2 else b""
            return (found or plan.guided.Mutate(data, most))[:most]

        plan.guided.Setup(arguments, test, custom_mutator=change)
        plan.guided.Fuzz()
