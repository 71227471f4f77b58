"""A native crash ends the process that items are done in: the next run quarantines the item, and no other one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from imageloom.driver.run import Driver
from imageloom.engines import Settings, open_engine
from imageloom.model import Job, Output, Recipe
from imageloom.records.ledger import Ledger
from program import contents, draw, imageloom, start

OPERATORS = """
import ctypes, os
from imageloom.operators import operator

@operator("point", examples=("fragile",))
def fragile(image):
    if image.shape[1] == 77:
        ctypes.string_at(0)
    return image

@operator("point", examples=("killer",))
def killer(image):
    if image.shape[1] == 77 and not os.path.exists(MARK):
        open(MARK, "x").close()
        os.kill(os.getpid(), 9)
    return image
"""


@pytest.fixture
def operators(tmp_path: Path) -> Path:
    path = tmp_path / "my_operators.py"
    path.write_text(OPERATORS.replace("MARK", repr(str(tmp_path / "mark"))))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for number in range(12):
        draw(folder / f"{number:02}.png", number, 77 if number == 5 else 60, 40)
    return folder


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Without a sandbox, in which a crash ends another process."""
    return imageloom("run", *arguments, "--json", "--sandbox", "off")


def events(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What has come of each item."""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["item"]: line["event"] for line in lines if "item" in line}


def failure(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    (found,) = [one for one in map(json.loads, done.stdout.splitlines()) if one["event"] == "failed"]
    reason: dict[str, str] = found["failure"]
    return {"item": found["item"], "kind": reason["kind"], "message": reason["message"]}


def notes(state: Path) -> list[str]:
    return [path.name for path in state.rglob("in-hand/*")]


def test_ledgers_in_one_folder_have_records_of_their_own(tmp_path: Path) -> None:
    found = set()
    for name in ("a.db", "b.db"):
        draw(tmp_path / f"photos-{name}" / "a.jpg")
        with Ledger(tmp_path / name) as ledger, closing(open_engine("serial", Settings())) as engine:
            job = Job(str(tmp_path / f"photos-{name}"), str(tmp_path / f"out-{name}"), Recipe((Output(()),)))
            Driver(job, engine, ledger, listeners=[lambda _: found.update(notes(tmp_path))]).run()
    assert len(found) == 2


@pytest.mark.parametrize("engine", ["threads", "serial"])
def test_what_crashes_the_process_is_quarantined_by_the_next_run(
    engine: str, source: Path, out: Path, operators: Path, tmp_path: Path
) -> None:
    command = ["fragile", source, out, "--operators", operators, "--engine", engine, "-j", 2]
    assert run(*command).returncode == -signal.SIGSEGV
    second = run(*command)
    assert second.returncode == 1, second.stderr
    assert "an earlier run ended" in second.stderr
    found = failure(second)
    assert (found["item"], found["kind"]) == ("05.png", "WorkerLost")
    assert "SIGSEGV" in found["message"]
    assert len([name for name in os.listdir(out) if name.endswith(".png")]) == 11
    third = run(*command)
    assert (third.returncode, failure(third)["item"]) == (1, "05.png")
    retried = run(*command, "--retry-failed")
    assert [item for item, event in events(retried).items() if event != "skipped"] == ["05.png"]
    draw(source / "05.png", 5, 60, 40)  # another file is no suspect
    last = run(*command)
    assert (last.returncode, events(last)["05.png"]) == (0, "done")
    assert notes(tmp_path) == []


def test_an_innocent_item_of_a_killed_run_is_done(
    source: Path, out: Path, operators: Path, tmp_path: Path
) -> None:
    command = ["killer", source, out, "--operators", operators, "--engine", "threads", "-j", 2]
    assert run(*command).returncode == -signal.SIGKILL
    second = run(*command)
    assert second.returncode == 0, second.stderr
    expected = tmp_path / "expected"
    assert run("killer", source, expected, "--operators", operators, "--engine", "serial").returncode == 0
    assert contents(out) == contents(expected)
    assert notes(tmp_path) == []


def test_a_large_image_is_quarantined_as_well(
    source: Path, out: Path, operators: Path, tmp_path: Path
) -> None:
    command = ["fragile", source, out, "--operators", operators, "--engine", "threads", "--tile", "always"]
    assert run(*command).returncode == -signal.SIGSEGV
    second = run(*command)
    assert second.returncode == 1, second.stderr
    assert (failure(second)["item"], failure(second)["kind"]) == ("05.png", "WorkerLost")
    assert len([name for name in os.listdir(out) if name.endswith(".png")]) == 11


def test_an_operator_that_no_other_process_knows_is_given_up_in_the_end(
    source: Path, out: Path, tmp_path: Path
) -> None:
    """It cannot be done elsewhere: after three runs that ended with it in hand it is not begun again."""
    script = tmp_path / "script.py"
    script.write_text(
        OPERATORS.replace("MARK", "''") + f"\nfrom imageloom import process\n"
        f"print(process('fragile', {str(source)!r}, {str(out)!r}, jobs=2))\n"
    )
    codes = []
    for _ in range(4):
        command = [sys.executable, str(script)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60, text=True)
        codes.append(done.returncode)
    assert codes == [-signal.SIGSEGV] * 3 + [0]
    assert "11 of 12 done" in done.stdout or "1 failed" in done.stdout


def test_a_run_that_is_interrupted_leaves_no_suspects(source: Path, out: Path, tmp_path: Path) -> None:
    for number in range(12, 60):
        draw(source / f"{number}.png", number, 600, 400)
    running = start("run", "median_blur 15", source, out, "--engine", "threads", stderr=subprocess.PIPE)
    while not out.exists() or not any(out.glob("*.png")):
        assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=30)
    assert running.returncode == 130, said
    assert notes(tmp_path) == []
