"""Hostile files are refused by name or done within 2 s of processor time and 256 MB, and the run goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from hostile_pool import outcomes, summary, wrong
from imageloom import errors
from imageloom.testing.hostile import Hostile, hostile_files, mutations

by_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from /proc"
)
FEW = 300
"""Mutations that are tried each time."""
RESIDENT = 700 << 20
"""Bytes of the whole program with --memory 200M, its libraries included."""

MEASURED = """
from pathlib import Path
import sys
from imageloom.cli import main
try:
    main()
finally:
    sys.stderr.write(Path("/proc/self/status").read_text())
"""
"""The program, with the highest of its resident memory at its end."""


@pytest.fixture(scope="module")
def by_hand() -> list[Hostile]:
    return list(hostile_files())


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, by_hand: list[Hostile]
) -> tuple[Path, dict[str, Hostile]]:
    source = tmp_path_factory.mktemp("hostile") / "source"
    source.mkdir()
    for file in by_hand:
        file.write(source)
    return source, {file.name: file for file in by_hand}


@by_proc
def test_each_is_refused_by_name_or_done_in_bounds(by_hand: list[Hostile], tmp_path: Path) -> None:
    files = list(hostile_files(seed=15, count=len(by_hand) + FEW))
    found = outcomes(files, tmp_path)
    assert not wrong(files, found), summary(found)


@by_proc
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_thousand(tmp_path: Path) -> None:
    files = list(hostile_files(seed=1, count=10_000))
    found = outcomes(files, tmp_path, processes=os.cpu_count() or 1)
    assert not wrong(files, found), summary(found)


@by_proc
@pytest.mark.parametrize("tile", ["always", "never"])
def test_the_program_stays_within_its_memory(
    folder: tuple[Path, dict[str, Hostile]], tmp_path: Path, tile: str
) -> None:
    source, files = folder
    arguments = ["run", "flip", source, tmp_path / "sink", "--ledger", tmp_path / "ledger", "--json"]
    options = ["--engine", "threads", "-j", "2", "--memory", "200M", "--tile", tile]
    command = [sys.executable, "-c", MEASURED, *map(str, arguments), *options]
    run = subprocess.run(command, capture_output=True, check=False, timeout=100, text=True)
    assert run.returncode == 1
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    failed = {line["item"]: line["failure"]["kind"] for line in lines if line["event"] == "failed"}
    assert {name for name, file in files.items() if file.harmless is False} <= set(failed)
    by_name = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert {kind for kind in failed.values() if kind not in by_name} == set()
    harmless = {name for name, file in files.items() if file.harmless}
    assert {name: kind for name, kind in failed.items() if name in harmless} == {}
    peak = int(run.stderr.rpartition("VmHWM:")[2].split()[0]) << 10
    assert peak < RESIDENT


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("profile-bomb.png", "LimitExceeded"),
        ("expands-too-far.png", "LimitExceeded"),
        ("over-the-limit.jpg", "LimitExceeded"),
        ("directory-behind-the-end.tif", "CorruptImage"),
        ("800-scans.jpg", "UnsupportedImage"),
        ("cut-at-1-2.webp", "CorruptImage"),
        ("bit-of-the-pixels.png", "CorruptImage"),
        ("strip-of-a-large-jpeg.tif", "CorruptImage"),
        ("6000-baseline-scans.jpg", "UnsupportedImage"),
        ("says-less-than-it-is.avif", "CorruptImage"),
    ],
)
def test_the_kind_of_a_refusal(name: str, kind: str, folder: tuple[Path, dict[str, Hostile]]) -> None:
    from imageloom import codecs
    from imageloom.model import Limits
    from imageloom.recipes.plan import check_limits

    data = folder[1][name].data

    def decode() -> None:
        header = codecs.header_of(data)
        check_limits(header, Limits(), len(data))
        codecs.read_metadata(data, header.format)
        codecs.decode(data, header)

    with pytest.raises(getattr(errors, kind)):
        decode()


def test_the_files_are_the_same_each_time() -> None:
    first, again = ([*islice(mutations.files(3), 500)] for _ in range(2))
    assert first == again
    assert first != [*islice(mutations.files(4), 500)]
