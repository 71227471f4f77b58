"""Workers that lie about results: what they say is refused by name, and the run goes on, on every engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from imageloom.testing import lying
from program import contents, draw, imageloom

IN_TWOS = [
    sys.executable,
    "-c",
    "import imageloom.plan; imageloom.plan.BATCH_ITEMS = 2; from imageloom.cli import main; main()",
]
"""The program with two items in each task."""
PIPELINE = "resize 48x"
HONEST = 6
BOUND = 60.0
"""Seconds that a run may take, on a machine that is busy with other things."""
FIELDS = {
    "threads": (lying.RESULT,),
    "processes": (lying.RESULT, lying.MESSAGE),
    "pipeline": (lying.RESULT, lying.MESSAGE),
    "zeromq": (lying.RESULT, lying.MESSAGE),
    "redis": (lying.RESULT, lying.MESSAGE),
    "nodes": (lying.RESULT,),
    "mpi": (lying.RESULT, lying.OUTCOME),
    "dask": (lying.RESULT, lying.OUTCOME),
    "ray": (lying.RESULT, lying.OUTCOME),
}


def run_with_lies(engine: str, lies: Iterable[tuple[str, str]], tmp_path: Path, *flags: str) -> None:
    """A run whose workers lie about some photos; it is checked that nothing comes of it."""
    photos, out, canary = tmp_path / "photos", tmp_path / "out", tmp_path / "canary"
    names = [lying.name_of(field, value, once=n % 5 == 0) for n, (field, value) in enumerate(lies)]
    for number, name in enumerate([*(f"honest-{n}.jpg" for n in range(HONEST)), *names]):
        draw(photos / name, number, 64, 48)
    expected = tmp_path / "expected"
    assert imageloom("run", PIPELINE, photos, expected, "--ledger", tmp_path / "serial.db", *flags).returncode == 0
    canaries = [canary / "beside.jpg", tmp_path / "beside.jpg", tmp_path / "other/.imageloom/2-1-1-0123456789ab-0"]
    for one in canaries:
        draw(one.with_suffix(".jpg"), 99).rename(one) if one.suffix != ".jpg" else draw(one, 99)
    before = {path: path.read_bytes() for path in [*canaries, *photos.iterdir()]}

    began = time.monotonic()
    ran = subprocess.run(
        [
            *(*IN_TWOS, "run", PIPELINE, str(photos), str(out), "--engine", engine, "-j", "2", "--json"),
            *("--operators", lying.__file__, "--ledger", str(tmp_path / "ledger.db"), "--timeout", "3", *flags),
        ],
        env={**os.environ, "IMAGELOOM_CANARY": str(canary), "IMAGELOOM_LIES": engine},
        capture_output=True,
        text=True,
        timeout=BOUND + 5 * len(names),
        check=False,
    )
    print(f"{engine}: {len(names)} lies in {time.monotonic() - began:.1f} s")  # noqa: T201
    assert ran.returncode in (0, 1), ran.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert not (out / ".imageloom").exists()
    made, right = contents(out), contents(expected)
    assert made == {name: right[name] for name in made}
    said = [json.loads(line) for line in ran.stdout.splitlines()]
    failed = {one["item"]: one for one in said if one.get("event") == "failed"}
    assert made.keys() | failed.keys() == right.keys()
    assert not made.keys() & failed.keys()
    assert {f"honest-{n}.jpg" for n in range(HONEST)} <= made.keys()
    assert "refused" in ran.stderr
    assert "Traceback" not in ran.stderr, ran.stderr


@pytest.mark.parametrize("engine", [name for name in FIELDS if name != "ray"])
def test_some_lies(engine: str, tmp_path: Path) -> None:
    lies = lying.some_lies(*FIELDS[engine], turn=7 * list(FIELDS).index(engine))
    run_with_lies(engine, lies, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("engine", list(FIELDS))
def test_all_lies(engine: str, tmp_path: Path) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    run_with_lies(engine, lying.all_lies(*FIELDS[engine]), tmp_path)
