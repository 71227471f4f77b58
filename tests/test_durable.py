"""`--durable`: when it is on, how often it flushes, and what follows when the disk reports an error."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imageloom.driver import rounds
from imageloom.model import Job, Recipe
from imageloom.records.events import Retried
from imageloom.records.ledger import Ledger
from imageloom.system import disk, folders
from program import COMMAND, Run, contents, draw, imageloom

RECIPE = Recipe(())


def test_it_is_on_only_where_it_is_asked_for_or_inputs_are_replaced() -> None:
    asked: list[tuple[bool, bool | None]] = [(False, None), (True, None), (True, False), (False, True)]
    jobs = [Job("in", "out", RECIPE, in_place=in_place, durable=durable) for in_place, durable in asked]
    assert [job.is_durable for job in jobs] == [False, True, False, True]


@pytest.mark.parametrize("at_once", [True, False])
def test_all_outputs_are_flushed_before_and_after_they_are_named(
    at_once: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noted(call: str, function: Callable[..., None]) -> Callable[..., None]:
        def note(*arguments: Any, **options: Any) -> None:
            calls.append(call)
            function(*arguments, **options)

        return note

    monkeypatch.setattr(folders, "rename_new", noted("rename", folders.rename_new))
    monkeypatch.setattr(disk, "flushes_at_once", lambda folder: at_once)
    monkeypatch.setattr(disk, "flush_all", noted("all", disk.flush_all))
    monkeypatch.setattr(disk, "flush_files", noted("files", disk.flush_files))
    monkeypatch.setattr(disk, "flush_below", noted("names", disk.flush_below))
    monkeypatch.setattr(rounds, "MOST", 4)
    assert Run("invert", photos, tmp_path / "out", durable=True, engine="serial").numbers == (6, 0, 0)
    flush = ["all"] if at_once else ["files", "names"]
    assert calls == [*flush, *["rename"] * 4, *flush, *["rename"] * 2, *flush]
    calls.clear()
    assert Run("invert", photos, tmp_path / "other", engine="serial").numbers == (6, 0, 0)
    assert calls == ["rename"] * 6
    assert contents(tmp_path / "other") == contents(tmp_path / "out")


def failing(*times: int) -> Any:
    """A flush that reports an error at these calls."""
    calls = iter(range(1000))

    def flush(folder: int) -> None:
        if next(calls) in times:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    return flush


@pytest.mark.parametrize("times", [(0,), (1,), (0, 1)], ids=["of contents", "of names", "of both"])
def test_what_the_disk_did_not_take_is_made_again(
    times: tuple[int, ...], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error, the system may have forgotten what it did not write: a second flush proves nothing."""
    monkeypatch.setattr(disk, "flushes_at_once", lambda folder: True)
    monkeypatch.setattr(disk, "flush_all", failing(*times))
    ran = Run("invert", photos, tmp_path / "out", durable=True, engine="serial")
    assert ran.numbers == (6, 0, 0)
    assert sum(isinstance(event, Retried) for event in ran.events) >= 6
    assert len(contents(tmp_path / "out")) == 6


def test_a_disk_that_takes_nothing_fails_all_items(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "flushes_at_once", lambda folder: True)
    monkeypatch.setattr(disk, "flush_all", failing(*range(100)))
    ran = Run("invert", photos, tmp_path / "out", durable=True, engine="serial")
    assert ran.failed == dict.fromkeys(contents(photos), "UnwritableOutput")
    assert "cannot flush" in ran.reason("1.jpg")
    assert contents(tmp_path / "out") == {}
    with Ledger() as ledger:
        assert not ledger.knows(str(tmp_path / "out"))


def test_a_file_that_is_changed_while_its_output_waits_is_not_replaced(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit(folder: int) -> None:
        (photos / "1.jpg").chmod(0o640)
        if (photos / "2.jpg").stat().st_size != 6:
            (photos / "2.jpg").write_bytes(b"edited")

    monkeypatch.setattr(disk, "flushes_at_once", lambda folder: True)
    monkeypatch.setattr(disk, "flush_all", edit)
    before = contents(photos)
    ran = Run(
        "invert", photos, photos, in_place=True, engine="serial", include=("[12].jpg",), exclude=("*/*",)
    )
    assert ran.failed == dict.fromkeys(["1.jpg", "2.jpg"], "UnreadableItem")
    assert contents(photos) == before | {"2.jpg": b"edited"}


def test_the_file_system_of_a_folder_is_that_of_its_mount(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        found = subprocess.run(
            ["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True
        )
        if found.stdout.strip() == "ext2/ext3":
            assert disk.file_system(folder) in ("ext2", "ext3", "ext4")
        else:
            assert disk.file_system(folder).startswith(found.stdout.strip()[:5])
    finally:
        os.close(folder)
    assert disk.file_system(-1) == ""


def test_doctor_tells_how_outputs_are_flushed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    shown = imageloom("doctor", tmp_path / "out", tmp_path / "none").stdout
    assert re.search(
        rf"durable +{tmp_path}/out: \w+, flushed (many outputs at once|each output on its own)\n", shown
    )
    assert f"{tmp_path}/none: No such file or directory" in shown


traced = pytest.mark.skipif(
    shutil.which("strace") is None, reason="declared: strace, which counts the calls, is not installed"
)


def flushes(folder: Path, *arguments: object) -> int:
    """Number of calls of the program that flush."""
    calls = ["-f", "-e", "trace=fsync,fdatasync,sync_file_range,syncfs", "-o", str(folder / "log")]
    command = ["strace", *calls, *COMMAND, *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return len(re.findall(r"sync\w*\(", (folder / "log").read_text()))


@traced
def test_a_watch_is_durable(photos: Path, tmp_path: Path) -> None:
    command = ["watch", "invert", photos]
    usual = flushes(tmp_path, *command, tmp_path / "usual", "--until-idle", 0)
    assert usual > flushes(tmp_path, *command, tmp_path / "no", "--until-idle", 0, "--no-durable")


@traced
def test_64_outputs_need_at_most_4_more_flushes(tmp_path: Path) -> None:
    for number in range(64):
        draw(tmp_path / "in" / f"{number}.png", number, 8, 8)
    assert imageloom("run", "invert", tmp_path / "in", tmp_path / "before").returncode == 0
    command = ["run", "invert", tmp_path / "in"]
    few, many = (
        flushes(tmp_path, *command, tmp_path / option, option) for option in ("--no-durable", "--durable")
    )
    if disk.file_system(folder := os.open(tmp_path, os.O_RDONLY)) in ("ext4", "xfs", "btrfs"):
        assert many - few <= 4
    os.close(folder)
