"""Tracebacks of bugs and of operators: logged where they were raised, kept in the ledger, and shown."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path

import pytest

from imageloom import codecs
from imageloom.errors import CorruptImage, OperatorFailed, StorageError, WorkerLost
from imageloom.model import Encoding, Failure, Frame, Header, Item, Limits, Recipe, Result, Task, Work
from imageloom.records.faults import failure_of
from imageloom.scheduling.results import checked
from imageloom.system.tracing import MOST_TRACE, masked
from program import draw, imageloom

SECRET = "loom-sesame-42"
OPERATORS = f"""
from imageloom.operators import operator

def look_up(place):
    raise LookupError(f"nothing at {{place}}")

@operator("point", examples=("fails_on_red",))
def fails_on_red(image):
    if image[..., 0].mean() > 200:
        look_up("redis://loom:{SECRET}@host:6379/0?password={SECRET}")
    return image
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """One image on which the operator fails, one that is cut off, one that is good."""
    import numpy as np

    folder = tmp_path / "photos"
    draw(folder / "good.png")
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 255
    (folder / "red.png").write_bytes(codecs.get("png").encode(red, Encoding(85)))
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:-200])
    return folder


@pytest.fixture
def operators(tmp_path: Path) -> Path:
    path = tmp_path / "my_operators.py"
    path.write_text(OPERATORS)
    return path


@pytest.mark.parametrize("engine", ["serial", "threads", "processes", "zeromq"])
def test_an_operators_own_line_is_shown(engine: str, source: Path, operators: Path, tmp_path: Path) -> None:
    flags = ("--operators", operators, "--engine", engine, "-j", 1)
    ran = imageloom("run", "fails_on_red", source, tmp_path / "out", *flags)
    assert ran.returncode == 1
    assert f'  File "{operators}", line 5, in look_up' in ran.stderr.splitlines()
    assert "show tracebacks: imageloom jobs show 1 --failed -v" in ran.stderr
    assert ran.stderr.count("in look_up") == 1, "each place is logged once, not at each attempt"

    shown = imageloom("jobs", "show", 1, "-v")
    lines = shown.stdout.splitlines()
    (at,) = [
        place for place, line in enumerate(lines) if line.startswith("failed  red.png  OperatorFailed: ")
    ]
    trace = list(itertools.takewhile(lambda line: line.startswith("    "), lines[at + 1 :]))
    assert trace[0] == "    Traceback (most recent call last):"
    assert f'      File "{operators}", line 5, in look_up' in trace
    assert f'      File "{operators}", line 10, in fails_on_red' in trace
    assert trace[-1] == "    LookupError: nothing at redis://***@host:6379/0?password=***"
    assert shown.stdout.count("Traceback") == 1, "a file that is cut off has none"

    brief = imageloom("jobs", "show", 1)
    assert "Traceback" not in brief.stdout
    assert "-v shows the tracebacks of failures" in brief.stderr
    failures = {
        item["key"]: item["failure"]
        for item in map(json.loads, imageloom("jobs", "show", 1, "--json").stdout.splitlines())
    }
    assert failures["good.png"] is None
    assert failures["cut.png"]["trace"] == ""
    assert "in look_up" in failures["red.png"]["trace"]
    assert SECRET not in ran.stdout + ran.stderr + shown.stdout + brief.stdout
    assert not [
        path
        for path in tmp_path.rglob("*")
        if path != operators and path.is_file() and SECRET.encode() in path.read_bytes()
    ]


def test_what_a_failure_keeps_of_an_error() -> None:
    def fail(depth: int) -> None:
        if depth == 0:
            raise ValueError("\x1b[31m " + "x" * 10 * MOST_TRACE)
        fail(depth - 1)

    with pytest.raises(ValueError, match="x") as bug:
        fail(3)
    trace = Failure.of(bug.value).trace
    assert len(trace) == MOST_TRACE
    with pytest.raises(RecursionError) as deep:
        fail(100_000)
    trace = Failure.of(deep.value).trace
    assert "in fail" in trace
    assert trace.endswith(f"RecursionError: {deep.value}")
    assert len(trace) < MOST_TRACE
    for error in (
        CorruptImage("cut"),
        StorageError("full"),
        WorkerLost("died"),
        MemoryError(),
        OperatorFailed("no"),
    ):
        assert Failure.of(error).trace == ""
    failed = OperatorFailed("blur failed")
    failed.__cause__ = bug.value
    assert Failure.of(failed).trace.endswith("xxx")


def test_files_are_logged_for_debugging_and_bugs_as_errors(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "imageloom.records.faults"):
        with pytest.raises(CorruptImage) as cut:
            codecs.decode(b"no image", Header("png", Frame(1, 1, 3)))
        failure_of("a.png", cut.value)
        for _ in range(3):
            failure_of("b.png", ValueError("a bug"))
    assert [record.levelname for record in caplog.records] == ["DEBUG", "ERROR"]
    said = caplog.records[0].getMessage()
    assert said.startswith("a.png failed: CorruptImage: the png file cannot be decoded")
    assert "codecs/png.py" in caplog.records[0].trace, "where the library was called"  # type: ignore[attr-defined]
    assert "ValueError: a bug" in caplog.records[1].trace  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("trace", "shown"),
    [
        ("line 1\n  line 2", "line 1\n  line 2"),
        ("\x1b]0;owned\x07\r\n\u202e\ud800", "\\x1b]0;owned\\x07\\x0d\n\\u202e\\ud800"),
        ("a" + "b" * MOST_TRACE, "b" * MOST_TRACE),
        ("\x00" * MOST_TRACE, "\\x00" * (MOST_TRACE // 4)),
        ("", ""),
    ],
)
def test_what_a_worker_sends_only_shows(trace: str, shown: str) -> None:
    work = Work(Item("a.png"), ("a.png",), 1)
    task = Task(1, "1", "/photos", "/out", Recipe(()), Limits(), (work,))
    sent = Result("a.png", failure=Failure("ValueError", "no", trace=trace))
    failure = checked(task, work, sent, "worker").failure
    assert failure is not None
    assert failure.trace == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"cannot open 'sftp://me:{SECRET}@host/x'", "cannot open 'sftp://***@host/x'"),
        (f"redis://:a/{SECRET}@127.0.0.1:1", "redis://***@127.0.0.1:1"),
        (f"redis://me:a@{SECRET}@127.0.0.1:1", "redis://***@127.0.0.1:1"),
        (f"https://host/x?a=1&X-Amz-Signature={SECRET}&b=2", "https://host/x?a=1&X-Amz-Signature=***&b=2"),
        (f"https://host/x?sig={SECRET}", "https://host/x?sig=***"),
        ("s3://bucket/me@home.jpg and sftp://me@host/x", "s3://bucket/me@home.jpg and sftp://me@host/x"),
        ("tcp://127.0.0.1:5555/a", "tcp://127.0.0.1:5555/a"),
    ],
)
def test_an_address_is_shown_without_its_password(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert Failure.of(ValueError(text)).message == f"ValueError: {shown}"
