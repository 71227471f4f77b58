"""A sink without space: the run stops after a few items, says so, and goes on when there is space."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from imageloom.errors import DiskFull, UnwritableOutput, unwritable
from program import COMMAND, draw

ITEMS = 120


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EACCES, UnwritableOutput)],
)
def test_the_kind_of_a_failed_write(code: int, kind: type[UnwritableOutput]) -> None:
    assert type(unwritable("cannot write to /out", OSError(code, os.strerror(code)))) is kind


@pytest.mark.parametrize("engine", ["threads", "processes"])
@pytest.mark.parametrize("durable", [[], ["--durable"]], ids=["", "durable"])
def test_a_run_stops_at_a_full_disk_and_goes_on(tmp_path: Path, engine: str, durable: list[str]) -> None:
    """The disk of the sink is small. After the run it gets larger, and the command is repeated."""
    for number in range(ITEMS):
        draw(tmp_path / "photos" / f"{number:03}.jpg", number, 120, 90)
    sink = tmp_path / "out"
    sink.mkdir()
    run = [
        "run",
        "flip",
        "photos",
        "out",
        "--format",
        "bmp",
        "--ledger",
        "ledger.db",
        "--engine",
        engine,
        "--json",
    ]
    command = shlex.join([*COMMAND, *run, *durable])
    script = (
        f"mount -t tmpfs -o size=1m none out || exit 77; {command} 2>first.txt; echo $? >code;"
        f" mount -o remount,size=64m out && {command} >second.txt 2>&1; echo $? >>code; ls out | wc -l >>code"
    )
    ran = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if ran.returncode == 77 or "unshare" in ran.stderr:
        pytest.skip("no file system may be mounted here")
    said = (tmp_path / "first.txt").read_text().splitlines()
    assert (tmp_path / "code").read_text().split() == ["4", "0", str(ITEMS)], said
    assert "there is no space for outputs (cannot write to" in said[-1]
    assert "No space left on device" in said[-1]
    events = [json.loads(line)["event"] for line in ran.stdout.splitlines()]
    assert events.count("done") > 5
    assert 3 <= events.count("failed") < 60
    assert "Traceback" not in "".join(said)
