"""An engine's own thread that fails: the run ends by name, at once, and can be resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imageloom.engines import Settings, open_engine
from imageloom.engines.mpi.engine import Supervised
from imageloom.engines.nodes.engine import Nodes
from imageloom.engines.pipeline.engine import Pipeline
from imageloom.engines.processes import Processes
from imageloom.engines.redis.engine import RedisStreams
from imageloom.engines.zeromq.engine import Zeromq
from imageloom.errors import EngineFailed
from imageloom.model import Item, Limits, Task, Work
from imageloom.testing.engines import recipe_of
from program import Run, contents, draw

STEPS = {
    "processes": (Processes, "_step"),
    "pipeline": (Pipeline, "_step"),
    "zeromq": (Zeromq, "_step"),
    "redis": (RedisStreams, "_step"),
    "mpi": (Supervised, "_step"),
    "nodes": (Nodes, "_step"),
}
"""What each engine's thread does again and again."""


@pytest.mark.parametrize("engine", list(STEPS))
def test_the_run_ends_by_name_and_goes_on_next_time(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for number in range(4):
        draw(photos / f"{number}.jpg", number)
    options: dict[str, Any] = {"engine": engine, "jobs": 1, "ledger": tmp_path / "ledger.db"}

    def fail(*_: object) -> None:
        raise LookupError("nobody has thought of this")

    with monkeypatch.context() as patch:
        patch.setattr(*STEPS[engine], fail)
        with pytest.raises(EngineFailed, match="nobody has thought of this") as failed:
            Run("resize 32x", photos, out, **options)
    assert failed.value.exit_code == 4
    assert Run("resize 32x", photos, out, **options).numbers == (4, 0, 0)
    assert len(contents(out)) == 4


def test_what_is_submitted_to_a_closed_engine_is_cancelled() -> None:
    opened = open_engine("processes", Settings(1))
    opened.close()
    assert opened.submit(Task(1, "1", "/in", "/out", recipe_of("invert"), Limits(), ())).cancelled()


@pytest.mark.parametrize("engine", list(STEPS))
def test_what_is_submitted_afterwards_fails_too(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*STEPS[engine], lambda *_: 1 / 0)
    opened = open_engine(engine, Settings(1))
    work = (Work(Item("a.jpg"), ("a.jpg",), 1),)
    task = Task(1, "1", str(tmp_path), str(tmp_path), recipe_of("invert"), Limits(), work)
    try:
        for _ in range(2):
            with pytest.raises(EngineFailed):
                opened.submit(task).result(20)
    finally:
        opened.close()
