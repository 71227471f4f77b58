"""Fuzzing: all targets on their corpus and on some mutations, and faults that must be found."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from imageloom import codecs
from imageloom.codecs.metadata import Metadata
from imageloom.driver.patterns import Pattern
from imageloom.engines.redis.wire import connect
from imageloom.errors import ImageloomError, PipelineError, UsageError
from imageloom.recipes.pipeline import Pipeline
from imageloom.testing.fuzzing.loop import Outcome, Plan, add_to_corpus, inputs_of, run
from imageloom.testing.fuzzing.target import MOST_BYTES, Target
from imageloom.testing.fuzzing.targets import all_targets
from imageloom.testing.hostile.bases import bases

CORPUS = Path(__file__).parent / "fuzz_corpus"
MOST_CORPUS = 300_000
"""Maximum size of the corpus in bytes."""


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "imageloom.testing.fuzzing", "--corpus", str(CORPUS), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_no_target_has_a_fault() -> None:
    found = fuzz("--plain", "--seconds", "0.1", "--runs", "2000", "--seed", "1")
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr
    assert found.stdout.count(" executions ") == len(all_targets()) + 1


@pytest.mark.long
@pytest.mark.timeout(0)
def test_no_target_has_a_fault_in_a_minute() -> None:
    found = fuzz("--seconds", "60", "--seed", "2")
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr


def test_all_codecs_have_targets() -> None:
    for format in filter(codecs.is_read, codecs.CODECS.names()):
        assert {f"header-{format}", f"metadata-{format}"} <= all_targets().keys()
        assert (f"decode-{format}" in all_targets()) == codecs.in_process(format)


def test_the_corpus_is_small_and_of_targets() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= {target.corpus for target in all_targets().values()}
    assert 0 < sum(path.stat().st_size for path in files) <= MOST_CORPUS


def test_seeds_are_valid() -> None:
    """Most seeds are accepted, so that mutations begin behind the first check."""
    for target in all_targets().values():
        seeds = list(target.seeds())
        if target.name in ("header-raw", "header-pdf", "redis-reply"):  # it has none that is complete
            continue
        assert sum(map(target.execute, seeds)) > len(seeds) / 2, target.name


# The loop


def refuse_x(data: bytes) -> None:
    if b"x" in data:
        raise KeyError("x")


def crash_at_x(data: bytes) -> None:
    if b"x" in data:
        ctypes.string_at(0)


def loop_at_x(data: bytes) -> None:
    while b"x" in data:
        pass


def allocate_at_x(data: bytes) -> None:
    if b"x" in data:
        bytearray(3 << 30)


def take_long_at_x(data: bytes) -> None:
    try:
        loop_at_x(data)
    except Exception as error:
        raise ImageloomError from error


def tried(function: Callable[[bytes], None], folder: Path, seed: int = 0) -> Outcome:
    target = Target("planted", function, lambda: [b"abc"], words=(b"x",))
    return run(target, Plan(20.0, 2000, seed, corpus=folder))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (refuse_x, "KeyError: 'x'"),
        (crash_at_x, "Segmentation fault"),
        (take_long_at_x, "of processor time"),
        (allocate_at_x, "MemoryError"),
    ],
)
def test_faults_are_found(
    function: Callable[[bytes], None], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageloom.testing.fuzzing.loop._HANG", 0.3)
    found = tried(function, tmp_path)
    assert said in found.fault
    assert b"x" in found.culprit


def test_a_seed_gives_the_same_inputs(tmp_path: Path) -> None:
    first, again = tried(refuse_x, tmp_path, seed=3), tried(refuse_x, tmp_path, seed=3)
    assert first == again
    assert first.executions != tried(refuse_x, tmp_path, seed=4).executions


def test_expected_errors_are_no_faults(tmp_path: Path) -> None:
    def refuse(data: bytes) -> None:
        raise ImageloomError("no")

    assert tried(refuse, tmp_path) == Outcome(2000, 0)


def test_a_culprit_becomes_a_seed(tmp_path: Path) -> None:
    target = Target("planted", refuse_x, lambda: [b"abc"])
    path = add_to_corpus(target, tmp_path, b"x" * (MOST_BYTES + 9))
    assert path.parent == tmp_path / "planted"
    assert inputs_of(target, tmp_path) == [b"abc", b"x" * MOST_BYTES]
    assert run(target, Plan(1.0, 5, corpus=tmp_path)).executions == 2


def test_the_command_names_its_targets() -> None:
    assert fuzz("no-target").returncode == 2
    names = fuzz("--list").stdout.split()
    assert names == list(all_targets())


# Faults that fuzzing has found


def test_a_recipe_that_expands_is_refused() -> None:
    levels = [f"- &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(PipelineError, match="more than 100,000 values"):
        Pipeline.from_yaml("\n".join(["- &a0 [x]", *levels]))


@pytest.mark.parametrize("text", ["- !!timestamp x", "- !!int x", "- 2001-99-99", "[" * 2000, "- &a [*a]"])
def test_a_recipe_with_invalid_values_is_refused(text: str) -> None:
    with pytest.raises(PipelineError):
        Pipeline.from_yaml(text)


def test_a_pipeline_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(PipelineError, match="not valid UTF-8"):
        Pipeline.parse(os.fsdecode(b"laplacian 3 sca\x80"))


def test_damaged_exif_in_an_avif_prints_nothing() -> None:
    """Pillow warns about it."""
    (file,) = (data for name, _, data in bases() if name == "avif-metadata")
    at = file.index(b"II*\0") + 10
    damaged = file[:at] + b"\x12\x01\5\0\xff\xff\xff\x0f" + file[at + 8 :]
    read = "import sys; from imageloom import codecs; codecs.read_metadata(sys.stdin.buffer.read(), 'avif')"
    found = subprocess.run([sys.executable, "-c", read], check=False, input=damaged, capture_output=True)
    assert (found.returncode, found.stderr) == (0, b"")


@pytest.mark.parametrize("text", ["{1..99}" * 2000, "**/a/" * 8 + "b"])
def test_a_pattern_that_takes_long_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="limit"):
        Pattern(text).fits("a/" * 60 + "c")


def test_an_address_of_redis_with_wrong_brackets_is_refused() -> None:
    with pytest.raises(UsageError, match="not an address"):
        connect("redis://[x]:6379/0")


def test_metadata_of_a_jpeg_whose_frame_is_cut_off() -> None:
    data = b"\xff\xd8\xff\xc0\0\x04\x08\0"
    assert codecs.read_metadata(data, "jpeg") == Metadata()
