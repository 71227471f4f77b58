"""Engine nodes: the nodes that a run has started end with it, however it ends."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from imageloom.bench.samples import draw_photos
from imageloom.chaos.processes import MARK, MarkedProcesses
from program import start, wait_until


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_they_end_with_a_run_that_is_killed(processes: int, tmp_path: Path) -> None:
    """At each moment of the start: when so many processes are there."""
    draw_photos(tmp_path / "photos", 20)
    group = MarkedProcesses(tmp_path.name, str(tmp_path))
    flags = ["--engine", "nodes", "-j", "2", "--ledger", tmp_path / "ledger.db"]
    place = ["median_blur 31", tmp_path / "photos", tmp_path / "out"]
    marked = {**os.environ, MARK: tmp_path.name}
    run = start("run", *place, *flags, env=marked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(group.members()) > processes)
        run.kill()
        run.wait()
        wait_until(lambda: not group.members(), 10)
    finally:
        run.kill()
        run.wait()
        group.kill_all()
