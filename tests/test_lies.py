"""Workers that lie about results: what they say is refused by name, and the run goes on, on every engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from imageloom.testing import lies
from lied import Case

PIPES = [("pipe", what) for what in lies.PIPE]
FIELDS: dict[str, Sequence[Sequence[str]]] = {
    "threads": (lies.RESULT,),
    "processes": (lies.RESULT, lies.MESSAGE),
    "pipeline": (lies.RESULT, lies.MESSAGE),
    "zeromq": (lies.RESULT, lies.MESSAGE),
    "redis": (lies.RESULT, lies.MESSAGE),
    "nodes": (lies.RESULT,),
    "mpi": (lies.RESULT, lies.MESSAGE),
    "dask": (lies.RESULT, lies.OUTCOME),
    "ray": (lies.RESULT, lies.OUTCOME),
}


def run(engine: str, told: list[tuple[str, str]], folder: Path) -> None:
    case = Case(folder, 6, told)
    flags = ("-j", 2, "--operators", lies.LYING, "--sandbox", "off", "--timeout", 3)  # the worker itself lies
    case.run(engine, "out", *flags, bound=60.0 + 2 * len(told))
    print(f"{engine}: {len(told)} lies in {case.seconds:.1f} s")  # noqa: T201
    case.check()
    assert set(case.honest) <= case.published
    assert "refused" in case.ran.stderr


@pytest.mark.parametrize("engine", [name for name in FIELDS if name != "ray"])
def test_some_lies(engine: str, tmp_path: Path) -> None:
    told = lies.some_lies(*FIELDS[engine], turn=7 * list(FIELDS).index(engine))
    run(engine, told, tmp_path)


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ("processes", PIPES[:3]),
        ("pipeline", PIPES[2:4]),
        pytest.param("processes", PIPES, marks=pytest.mark.long),
        pytest.param("pipeline", PIPES, marks=pytest.mark.long),
    ],
)
def test_what_is_no_message_comes_through_the_pipe(
    engine: str, told: list[tuple[str, str]], tmp_path: Path
) -> None:
    run(engine, told, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("engine", list(FIELDS))
def test_all_lies(engine: str, tmp_path: Path) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    run(engine, lies.all_lies(*FIELDS[engine]), tmp_path)
