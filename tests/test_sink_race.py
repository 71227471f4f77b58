"""A file of somebody else that appears in the sink while an item is processed is not replaced."""

from __future__ import annotations

import ctypes
import errno
from pathlib import Path

import pytest

from imageloom.records.events import Event, Planned
from imageloom.system import folders
from program import Run, draw

NAME = "0.jpg"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number in range(3):
        draw(tmp_path / "in" / f"{number}.jpg", number, 60, 40)
    return tmp_path / "in"


class Meanwhile:
    """Makes a file of that name as soon as the item is planned, after its name was checked."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, event: Event) -> None:
        if isinstance(event, Planned) and event.names == (self.path.name,):
            self.path.write_bytes(b"a stranger's")


def without_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that cannot do it."""

    def refuse(*_: object) -> int:
        ctypes.set_errno(errno.EINVAL)
        return -1

    monkeypatch.setattr(folders, "_renameat2", lambda: refuse)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_it_fails_the_item(
    old: bool, durable: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old:
        without_the_call(monkeypatch)
    out = tmp_path / "out"
    run = Run("invert", source, out, listeners=[Meanwhile(out / NAME)], durable=durable)
    assert run.numbers == (2, 1, 0)
    assert (out / NAME).read_bytes() == b"a stranger's"
    assert "has appeared meanwhile" in run.reason(NAME)
    (out / NAME).unlink()
    assert Run("invert", source, out).numbers == (1, 0, 2)


def test_it_is_replaced_if_that_is_wanted(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = Run("invert", source, out, listeners=[Meanwhile(out / NAME)], if_exists="overwrite")
    assert run.numbers == (3, 0, 0)
    assert (out / NAME).read_bytes() != b"a stranger's"
