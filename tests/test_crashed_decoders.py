"""A decoder that crashes in the process of the run costs its own item: the same command starts the run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from program import draw, imageloom, line_of, start, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs are supervised on Linux")

CODEC = '''
import ctypes, os, signal, time
import numpy as np
from imageloom.codecs.metadata import NO_METADATA
from imageloom.model import Frame, Header
class Frail:
    """Gray images whose decoder ends its process as they say."""
    format = "frail"
    written = "png"
    magic, suffixes = rb"FRAIL\\0", ("frail",)
    quality = encoder_bytes = 0
    carries = ()
    in_process = True
    def header(self, head):
        return Header("frail", Frame(20, 10, 1))
    def cannot_hold(self, frame):
        return "it is only read"
    def decode(self, data, header, *, luma, scale, damage=None):
        word = bytes(data[6:]).decode()
        if word == "null":
            ctypes.string_at(0)
        elif word.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, word))
            time.sleep(60)
        elif word == "wait":
            open("begun-%d" % os.getpid(), "x").close()
            while not os.path.exists("go on"):
                time.sleep(0.01)
        return np.zeros((10, 20), np.uint8)
    def metadata(self, data):
        return NO_METADATA
    def encode(self, image, encoding, metadata=NO_METADATA):
        raise NotImplementedError
'''
GOOD = 8


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Options for a program that finds the codec, in a folder of photos."""
    package = tmp_path / "packages"
    about = package / "frail_codec-1.dist-info"
    about.mkdir(parents=True)
    (package / "frail_codec.py").write_text(CODEC)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: frail-codec\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[imageloom.codecs]\nfrail = frail_codec:Frail\n")
    for number in range(GOOD):
        draw(tmp_path / "photos" / f"{number}.jpg", number, 60, 40)
    paths = os.pathsep.join([str(package), *sys.path[1:]])
    return {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": paths}}


def add(folder: Path, *words: str) -> None:
    for number, word in enumerate(words):
        (folder / "photos" / f"3-{number}.frail").write_bytes(b"FRAIL\0" + word.encode())


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The last event of each item that was not skipped; of a failure its kind."""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    events = [line for line in lines if "item" in line and line["event"] in ("done", "failed")]
    return {line["item"]: line.get("failure", {}).get("kind", "done") for line in events}


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("threads", ("null",)),
        ("serial", ("SIGABRT", "null")),
        pytest.param("threads", ("SIGBUS", "SIGABRT"), marks=pytest.mark.long),
        pytest.param("auto", ("SIGFPE",), marks=pytest.mark.long),
        pytest.param("processes", ("null",), marks=pytest.mark.long),
        pytest.param("zeromq", ("null",), marks=pytest.mark.long),
        pytest.param("redis", ("null",), marks=pytest.mark.long),
        pytest.param("nodes", ("null",), marks=pytest.mark.long),
        pytest.param("pipeline", ("null",), marks=pytest.mark.long),
        pytest.param("mpi", ("null",), marks=pytest.mark.long),
        pytest.param("dask", ("null",), marks=pytest.mark.long),
        pytest.param("ray", ("null",), marks=pytest.mark.long),
    ],
)
def test_a_decoder_that_crashes_costs_its_own_item(
    engine: str, words: tuple[str, ...], tmp_path: Path, options: dict[str, Any]
) -> None:
    add(tmp_path, *words)
    done = imageloom("run", "invert", "photos", "out", "--engine", engine, "-j", 2, "--json", **options)
    assert done.returncode == 1, done.stderr
    expected = {f"{number}.jpg": "done" for number in range(GOOD)}
    expected |= {f"3-{number}.frail": "WorkerLost" for number in range(len(words))}
    assert outcomes(done) == expected, done.stderr
    if engine in ("threads", "serial"):
        assert done.stderr.count("the run has crashed") == 1
    again = imageloom("run", "invert", "photos", "out", "--engine", engine, "-j", 2, **options)
    assert (again.returncode, f"{GOOD} skipped" in again.stdout) == (1, True), again.stdout + again.stderr


def begun(options: dict[str, Any], **more: Any) -> tuple[subprocess.Popen[str], int]:
    """A run with one item in progress, and the process that decodes it."""
    folder = options["cwd"]
    add(folder, "wait")
    command = ["run", "invert", "photos", "out", "--engine", "threads", "-j", 1]
    running = start(*command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **options, **more)
    wait_until(lambda: list(folder.glob("begun-*")) or running.poll() is not None)
    (found,) = folder.glob("begun-*")
    return running, int(found.name.removeprefix("begun-"))


@pytest.mark.parametrize("way", ["program", "child", "group"])
def test_a_signal_is_heard_once_however_it_comes(way: str, options: dict[str, Any]) -> None:
    running, child = begun(options, start_new_session=True)
    assert child != running.pid
    give = os.killpg if way == "group" else os.kill
    give(child if way == "child" else running.pid, signal.SIGINT)
    said = line_of(running, "stopping")
    assert "finishing" in said
    (options["cwd"] / "go on").touch()
    stdout, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    assert stdout.startswith("interrupted: ")
    assert (options["cwd"] / "out" / "3-0.png").exists()  # it was finished


def test_a_run_is_killed_with_the_program(options: dict[str, Any]) -> None:
    running, child = begun(options)
    process = psutil.Process(child)
    running.kill()
    running.communicate()
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def test_the_program_ends_as_the_run_has_ended(options: dict[str, Any]) -> None:
    running, child = begun(options)
    os.kill(child, signal.SIGKILL)  # no crash of a decoder: it is not started again
    running.communicate(timeout=60)
    assert running.returncode == -signal.SIGKILL


def test_a_stopped_run_is_continued(options: dict[str, Any]) -> None:
    running, child = begun(options, process_group=0)
    stopped = (psutil.STATUS_STOPPED,)
    os.kill(running.pid, signal.SIGTSTP)
    pids = (running.pid, child)
    wait_until(lambda: all(psutil.Process(pid).status() in stopped for pid in pids))
    os.kill(running.pid, signal.SIGCONT)
    (options["cwd"] / "go on").touch()
    running.communicate(timeout=60)
    assert running.returncode == 0
