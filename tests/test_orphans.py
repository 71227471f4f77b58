"""A driver that is killed takes its worker processes along, whatever they are busy with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil
import pytest

from program import draw, start, wait_until

BUSY = """
import time
from pathlib import Path
from imageloom import Pixels, operator

@operator("point", examples=("busy",))
def busy(image: Pixels) -> Pixels:
    Path({!r}).touch()
    while True:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("engine", ["processes", "pipeline", "redis", "zeromq", "nodes"])
def test_workers_end_with_a_killed_driver(engine: str, tmp_path: Path) -> None:
    photo, begun, operators = draw(tmp_path / "photos" / "0.jpg"), tmp_path / "begun", tmp_path / "busy.py"
    operators.write_text(BUSY.format(str(begun)))
    arguments = ["run", "busy", photo.parent, tmp_path / "out", "--operators", operators, "--engine", engine]
    arguments += ["--sandbox", "off"]  # the operator writes a file
    run = start(*arguments, "-j", 2, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    family: list[psutil.Process] = []
    try:
        wait_until(begun.exists)
        family = psutil.Process(run.pid).children(recursive=True)
        run.kill()
        run.wait()
        wait_until(lambda: not any(map(psutil.Process.is_running, family)), 30)
    finally:
        run.kill()
        run.wait()
        for process in family:
            if process.is_running():
                process.kill()
