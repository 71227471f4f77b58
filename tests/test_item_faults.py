"""Whatever one file makes the program raise is the failure of that file, and all others are done."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
import pytest

from imageloom import codecs
from imageloom.bench.samples import draw_photo
from imageloom.codecs.piecewise import tiff
from imageloom.codecs.tiff import Tiff
from imageloom.model import Encoding
from imageloom.stores.local import LocalStore
from imageloom.tiling.readers.tiff import Reader
from program import Run, draw, imageloom, names


class Panic(BaseException):
    """As a library in Rust raises it."""


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("it has no words")


RAISED: dict[str, Callable[[], BaseException]] = {
    "TypeError": TypeError,
    "ValueError": lambda: ValueError("a \udcff surrogate and a \x00"),
    "IndexError": IndexError,
    "KeyError": lambda: KeyError(0x106),
    "AssertionError": AssertionError,
    "MemoryError": MemoryError,
    "RecursionError": RecursionError,
    "OverflowError": OverflowError,
    "ZeroDivisionError": ZeroDivisionError,
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    "struct.error": lambda: struct.error("unpack requires a buffer of 4 bytes"),
    "cv2.error": lambda: cv2.error("a message of many\nlines"),
    "OSError": lambda: OSError(5, "Input/output error"),
    "SyntaxError": SyntaxError,
    "StopIteration": StopIteration,
    "SystemExit": lambda: SystemExit(0),
    "Panic": Panic,
    "Mute": Mute,
}

HOOKS = {
    "header": (Tiff, "header", "never"),
    "metadata": (Tiff, "metadata", "never"),
    "decode": (Tiff, "decode", "never"),
    "encode": (Tiff, "encode", "never"),
    "header, in tiles": (Tiff, "header", "always"),
    "metadata, in tiles": (Tiff, "metadata", "always"),
    "opening in tiles": (Reader, "__init__", "always"),
    "reading in tiles": (Reader, "read", "always"),
    "the cut into pieces": (Tiff, "in_pieces", "always"),
    "creating": (tiff.Encoder, "create", "always"),
    "compressing": (tiff.Encoder, "compress", "always"),
    "finishing": (tiff.Encoder, "directory", "always"),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one TIFF is large enough to be written in pieces."""
    folder = tmp_path_factory.mktemp("faults") / "source"
    for number in range(3):
        draw(folder / f"{number}.png", number)
    rows = np.resize(np.arange(251, dtype=np.uint8), (4096, 4096))
    (folder / "1-bad.tif").write_bytes(codecs.get("tiff").encode(rows, Encoding(85)))
    return folder


def check(hook: str, raised: str, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, method, tile = HOOKS[hook]
    error = RAISED[raised]

    def fail(*_: Any, **__: Any) -> Any:
        raise error()

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, fail)
        run = Run("invert", source, out, engine="threads", jobs=2, tile=tile, sandbox="off")
    assert run.numbers == (3, 1, 0), (hook, raised)
    assert list(run.failed) == ["1-bad.tif"]
    assert names(out) == ["0.png", "1.png", "2.png"], (hook, raised)


@pytest.mark.parametrize("hook", HOOKS)
def test_each_step_of_an_item_may_raise(
    hook: str, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, raised in enumerate(("TypeError", "Panic", "OSError")):
        check(hook, raised, source, out / str(place), monkeypatch)
    assert Run("invert", source, out / "0", engine="threads", jobs=2).numbers == (1, 0, 3)


@pytest.mark.parametrize("hook", ["header", "opening in tiles"])
def test_anything_may_be_raised(hook: str, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for raised in RAISED:
        check(hook, raised, source, out / raised, monkeypatch)


@pytest.mark.parametrize("raised", ["TypeError", "SystemExit"])
def test_publishing_may_raise(raised: str, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish = LocalStore.publish

    def fail(store: LocalStore, token: str, key: str, *more: Any) -> None:
        if key == "1-bad.tif":
            raise RAISED[raised]()
        publish(store, token, key, *more)

    monkeypatch.setattr(LocalStore, "publish", fail)
    run = Run("invert", source, out, engine="serial")
    assert run.numbers == (3, 1, 0)
    assert names(out) == ["0.png", "1.png", "2.png"]


OPERATORS = """
import sys
from imageloom.operators import operator

@operator("point", examples=("leave",))
def leave(image):
    if image.shape[1] == 4096:
        sys.exit(3)
    return image
"""


@pytest.mark.parametrize("engine", ["serial", "threads", "processes", "pipeline"])
def test_an_operator_that_exits_ends_no_worker(engine: str, source: Path, out: Path, tmp_path: Path) -> None:
    operators = tmp_path / "operators.py"
    operators.write_text(OPERATORS)
    command = ["leave", source, out, "--operators", operators, "--engine", engine, "-j", 2, "--tile", "never"]
    done = imageloom("run", *command)
    assert done.returncode == 1, done.stderr
    assert "failed: 1-bad.tif: SystemExit: SystemExit: 3" in done.stderr
    assert names(out) == ["0.png", "1.png", "2.png"]


def wrong_tags(data: bytes) -> Iterator[bytes]:
    """A TIFF with each tag of another type, or with other numbers of values, one at a time."""
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, type_, number, value = struct.unpack_from("<HHII", data, entry)
        for changed in (
            *((tag, other, number, value) for other in (1, 2, 4, 5, 7, 11, 12, 16, 99) if other != type_),
            *((tag, type_, other, value) for other in (0, 2, 3, 2**16, 2**32 - 1)),
            *((tag, type_, number, other) for other in (0, 2**16, 2**32 - 1)),
            (0, type_, number, value),
        ):
            yield data[:entry] + struct.pack("<HHII", *changed) + data[entry + 12 :]


def damaged(data: bytes, count: int) -> Iterator[bytes]:
    """A file with a few bytes changed, most of them in its header."""
    random = Random(5)
    for _ in range(count):
        made = bytearray(data)
        for _ in range(random.randint(1, 4)):
            made[int(len(made) * random.random() ** 4)] = random.choice((0, 1, 0x7F, 0x80, 0xFF))
        yield bytes(made)


@pytest.mark.parametrize("tile", ["always", "never"])
def test_files_that_are_damaged_fail_alone(tile: str, tmp_path: Path, out: Path) -> None:
    source = tmp_path / "source"
    photo = draw_photo(3, 96, 64)
    for name in ("tiff", "jpeg", "png", "webp", "bmp", "avif"):
        data = codecs.get(name).encode(photo, Encoding(80))
        made = wrong_tags(data) if name == "tiff" else damaged(data, 30)
        for number, one in enumerate(made):
            path = source / f"{name}-{number:03}.{codecs.suffixes(name)[0]}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(one)
    for number in range(3):
        draw(source / f"good-{number}.jpg", number)
    total = len(list(source.iterdir()))
    command = ["run", "grayscale | gaussian_blur 1", source, out, "--engine", "threads", "-j", 2]
    for _ in range(2):
        done = imageloom(
            *command, "--tile", tile, "--quiet", "--sandbox", "off" if tile == "always" else "auto"
        )
        assert done.returncode in (0, 1), done.stderr
        assert f" of {total} done" in done.stdout
    assert {f"good-{number}.jpg" for number in range(3)} <= set(names(out))
    assert ".imageloom" not in names(out)
