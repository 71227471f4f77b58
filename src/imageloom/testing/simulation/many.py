"""Runs the histories of many seeds, in several processes."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from imageloom.testing.simulation.coverage import Coverage
from imageloom.testing.simulation.history import History, make_source, simulate

MEMORY = "/dev/shm"
"""A folder in memory, where creating and removing files is fast."""
CHUNK = 50
"""Number of seeds that a process runs in one call."""


@dataclass
class Findings:
    """The results of many seeds."""

    histories: int = 0
    runs: int = 0
    """Number of runs of the driver."""
    faults: int = 0
    least_faults: int = 1_000_000
    """Smallest number of faults in one history."""
    seen: Coverage = field(default_factory=Coverage)
    broken: list[tuple[int, str]] = field(default_factory=list)
    """Seeds with a broken law, and the first law that each has broken."""

    def add(self, history: History) -> None:
        self.histories += 1
        self.runs += history.runs
        self.faults += history.faults
        self.least_faults = min(self.least_faults, history.faults)
        self.seen.update(history.seen)
        self.broken += [(history.seed, law) for law in history.broken[:1]]

    def merge(self, other: Findings) -> None:
        self.histories += other.histories
        self.runs += other.runs
        self.faults += other.faults
        self.least_faults = min(self.least_faults, other.least_faults)
        self.seen.update(other.seen)
        self.broken += other.broken


@contextmanager
def _workplace() -> Iterator[tuple[Path, Path]]:
    """The source of all histories, and a folder for one of them."""
    parent = MEMORY if os.path.isdir(MEMORY) else None
    with tempfile.TemporaryDirectory(prefix="imageloom-simulation-", dir=parent) as folder:
        yield make_source(Path(folder, "source")), Path(folder, "history")


def one(seed: int) -> History:
    """Run the history of a seed, with a log."""
    with _workplace() as (source, folder):
        return simulate(seed, source, folder, keeps_log=True)


def run_some(seeds: Sequence[int], most_broken: int = 1_000_000) -> Findings:
    """Run the histories of some seeds in this process.

    Args:
        most_broken: stop after this number of broken histories.
    """
    logging.disable(logging.CRITICAL)  # refused results are logged in every history
    findings = Findings()
    try:
        with _workplace() as (source, folder):
            for seed in seeds:
                findings.add(simulate(seed, source, folder))
                if len(findings.broken) >= most_broken:
                    break
    finally:
        logging.disable(logging.NOTSET)
    return findings


def run_all(seeds: range, jobs: int) -> Findings:
    """Run the histories of many seeds, in this number of processes."""
    chunks = [seeds[first : first + CHUNK] for first in range(0, len(seeds), CHUNK)]
    findings = Findings()
    with ProcessPoolExecutor(jobs, get_context("forkserver")) as pool:
        for some in pool.map(run_some, chunks):
            findings.merge(some)
    findings.broken.sort()
    return findings
