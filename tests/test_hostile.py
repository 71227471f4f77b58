"""Hostile files are refused by name or done within 2 s of processor time and 256 MB, and the run goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from faithful import saved, scene
from imageloom import errors
from imageloom.testing.hostile import Hostile, hostile_files

SECONDS = 2.0
BYTES = 256 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Hostile]]:
    source = tmp_path_factory.mktemp("hostile") / "source"
    source.mkdir()
    files = {file.name: file for file in hostile_files()}
    for file in files.values():
        (source / file.name).write_bytes(file.data)
    return source, files


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from /proc"
)
def test_each_is_refused_by_name_or_done_in_bounds(
    folder: tuple[Path, dict[str, Hostile]], tmp_path: Path
) -> None:
    source, files = folder
    program = Path(__file__).with_name("bounded.py")
    run = subprocess.run(
        [sys.executable, str(program), str(source), str(tmp_path)],
        capture_output=True,
        check=False,
        timeout=100,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert {line["name"] for line in lines} == set(files)
    assert len(files) >= 60
    wrong = []
    for line in lines:
        file = files[line["name"]]
        kind = line["failure"] and getattr(errors, line["failure"][0], None)
        by_name = kind is not None and issubclass(kind, errors.ItemError)
        if line["seconds"] > SECONDS or line["bytes"] > BYTES or not (file.harmless or by_name):
            wrong.append(line)
        if file.harmless and line["failure"]:
            wrong.append(line)
    assert not wrong


def test_a_run_over_all_of_them_goes_on_and_does_the_good_ones(
    folder: tuple[Path, dict[str, Hostile]], tmp_path: Path
) -> None:
    source, files = folder
    good = [f"a photo {n}.png" for n in range(3)] + ["zz.png"]
    for name in good:
        (source / name).write_bytes(saved(Image.fromarray(scene(3)), "PNG"))
    command = [sys.executable, "-c", "from imageloom.cli import main; main()", "run", "invert", str(source)]
    options = [str(tmp_path / "sink"), "--ledger", str(tmp_path / "ledger"), "--json", "-j", "2"]
    try:
        run = subprocess.run([*command, *options], check=False, capture_output=True, timeout=100, text=True)
    finally:
        for name in good:
            (source / name).unlink()
    assert run.returncode == 1
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    done = {line["item"] for line in lines if line["event"] == "done"}
    failed = {line["item"] for line in lines if line["event"] == "failed"}
    assert set(good) <= done
    assert {name for name, file in files.items() if not file.harmless} <= failed
    assert len(done) + len(failed) == len(files) + len(good)
    assert lines[-1]["failed"] == len(failed)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("profile-bomb.png", "LimitExceeded"),
        ("expands-too-far.png", "LimitExceeded"),
        ("over-the-limit.jpg", "LimitExceeded"),
        ("100000-frames.gif", "UnsupportedImage"),
        ("loop.tif", "CorruptImage"),
        ("800-scans.jpg", "UnsupportedImage"),
        ("cut-at-1-2.webp", "CorruptImage"),
        ("bit-of-the-pixels.png", "CorruptImage"),
    ],
)
def test_the_kind_of_a_refusal(name: str, kind: str, folder: tuple[Path, dict[str, Hostile]]) -> None:
    from imageloom import codecs
    from imageloom.model import Limits
    from imageloom.plan import check_limits

    data = folder[1][name].data

    def decode() -> None:
        header = codecs.read_header(lambda n: data[:n], len(data))
        check_limits(header, Limits(), len(data))
        codec = codecs.get(header.format)
        codec.metadata(data)
        codec.decode(data, header, luma=False, scale=1)

    with pytest.raises(getattr(errors, kind)):
        decode()


def test_the_files_are_the_same_each_time() -> None:
    first, again = (next(hostile_files()) for _ in range(2))
    assert first == again
