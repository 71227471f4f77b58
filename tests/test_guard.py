"""A worker that others send tasks to keeps to its roots."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from imageloom.errors import TaskRefused
from imageloom.model import Box, Item, Limits, Output, Part, Recipe, Task, Work
from imageloom.worker.guard import Guard


def task(source: str, sink: str, key: str = "a.jpg", **changes: object) -> Task:
    made = Task(1, "1", source, sink, Recipe((Output(()),)), Limits(), (Work(Item(key), (key,), 1),))
    return replace(made, **changes)


def test_what_lies_below_a_root_is_taken(tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    Guard((root,)).bounded(task(f"{root}/in", f"{root}/out", "b/c.jpg"))
    Guard((root, "s3://bucket/a")).bounded(task("s3://bucket/a/in", root))
    Guard().bounded(task("/anywhere", "/else"))


@pytest.mark.parametrize(
    ("source", "sink", "key"),
    [
        ("{root}x/in", "{root}/out", "a.jpg"),
        ("{root}/in", "{root}/../out", "a.jpg"),
        ("{root}/in", "{root}/out", "../../a.jpg"),
        ("{root}/in", "{root}/link", "a.jpg"),
        ("s3://bucket/ab", "{root}/out", "a.jpg"),
        ("s3://bucket/a/../b", "{root}/out", "a.jpg"),
        ("s3://bucket/a", "{root}/out", "../b.jpg"),
    ],
)
def test_what_leaves_the_roots_is_refused(tmp_path: Path, source: str, sink: str, key: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to("/usr")
    guard = Guard((str(root), "s3://bucket/a"))
    with pytest.raises(TaskRefused, match=r"--root"):
        guard.bounded(task(source.format(root=root), sink.format(root=root), key))


def test_rasters_are_below_the_roots_too(tmp_path: Path) -> None:
    part = Part(0, 0, 0, Box(0, 0, 1, 1), reads="/dev/shm/raster")
    with pytest.raises(TaskRefused, match="/dev/shm/raster"):
        Guard((str(tmp_path),)).bounded(task(f"{tmp_path}/in", f"{tmp_path}/out", part=part))


def test_operators_are_those_that_the_worker_was_given(tmp_path: Path) -> None:
    recipe = Recipe((Output(()),), operators=(str(tmp_path / "evil.py"),))
    asked = task(f"{tmp_path}/in", f"{tmp_path}/out", recipe=recipe)
    with pytest.raises(TaskRefused, match=r"evil\.py.*--operators"):
        Guard((str(tmp_path),)).bounded(asked)
    Guard((str(tmp_path),), (str(tmp_path / "evil.py"),)).bounded(asked)
