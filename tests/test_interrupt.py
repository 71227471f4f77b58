"""Interruption and progress: Ctrl-C finishes what is in hand, the same command resumes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pexpect
import pytest

from imageloom import cli
from imageloom.bench.samples import draw_photos
from program import COMMAND, contents, imageloom, names, start, wait_for_outputs, wait_until


@pytest.mark.parametrize(
    ("engine", "number"),
    [
        ("serial", signal.SIGINT),
        ("threads", signal.SIGINT),
        ("threads", signal.SIGTERM),
        ("processes", signal.SIGINT),
    ],
)
def test_an_interrupted_run_finishes_what_is_in_hand_and_is_resumed(
    engine: str, number: signal.Signals, crowd: Path, out: Path
) -> None:
    arguments = ["run", "invert", crowd, out, "--engine", engine, "-j", "2"]
    running = start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for_outputs(out, running)
    running.send_signal(number)
    stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 130
    assert stderr.startswith("stopping: finishing the items in progress")
    found = re.match(r"interrupted: (\d+) done, 0 failed", stdout)
    assert found
    assert 0 < int(found[1]) < 240
    assert len(contents(out)) == int(found[1])
    assert not (out / ".imageloom").exists()
    assert "interrupted" in imageloom("jobs").stdout
    resumed = imageloom(*arguments)
    assert resumed.returncode == 0
    assert f"{240 - int(found[1])} of 240 done ({found[1]} skipped), 0 failed" in resumed.stdout
    assert names(out) == names(crowd)


def test_a_second_interruption_ends_the_program(crowd: Path, out: Path) -> None:
    arguments = ["run", "median_blur 9", crowd, out, "-j", "2"]
    running = start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stderr is not None
    wait_for_outputs(out, running, "**/*")
    running.send_signal(signal.SIGINT)
    assert "stopping" in running.stderr.readline()
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode in (130, -signal.SIGINT), stderr
    assert "no image" not in stderr
    assert "Traceback" not in stderr
    assert imageloom(*arguments).returncode == 0
    assert names(out) == names(crowd)


@pytest.mark.parametrize("interrupted", [True, False])
def test_what_fails_amid_the_tidying_up_hides_no_interruption(
    interrupted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(**options: object) -> None:
        try:
            raise KeyboardInterrupt if interrupted else KeyError
        finally:
            raise RuntimeError("half of it was there")

    monkeypatch.setattr(cli.cli, "main", command)
    with pytest.raises(SystemExit if interrupted else RuntimeError) as ended:
        cli.main()
    assert not interrupted or ended.value.args == (130,)


# On a terminal


def terminal(*arguments: object) -> pexpect.spawn:
    environment = {**os.environ, "TERM": "xterm"}
    words = [*COMMAND[1:], *(str(a) for a in arguments)]
    return pexpect.spawn(
        COMMAND[0], words, env=environment, encoding="utf-8", timeout=60, dimensions=(24, 200)
    )


def test_progress_with_rate_and_time_left_on_a_terminal(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 40)
    (tmp_path / "photos" / "empty.jpg").touch()
    child = terminal("run", "median_blur 21", tmp_path / "photos", tmp_path / "out", "-j", "1")
    child.expect("failed: empty.jpg: CorruptImage")
    child.expect(r"\d+/41 images \|")
    child.expect("40 of 41 done, 1 failed")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 1


def test_ctrl_c_on_a_terminal(crowd: Path, out: Path) -> None:
    child = terminal("run", "median_blur 9", crowd, out, "-j", "2")
    child.expect(r"[1-9]\d*(/240)? ")
    wait_until(lambda: any(out.glob("*/*.jpg")))
    child.sendintr()
    child.expect("stopping: finishing the items in progress")
    child.expect(r"interrupted: \d+ done")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert not (out / ".imageloom").exists()


def test_an_error_on_a_terminal_is_one_line(tmp_path: Path) -> None:
    child = terminal("run", "grayscale", tmp_path / "nothing", tmp_path / "out")
    output = child.read()
    child.close()
    assert child.exitstatus == 4
    assert "imageloom: there is no file or folder" in output
    assert "Traceback" not in output
