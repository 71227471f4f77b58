"""What may lie in a source or a sink: whatever it is, it fails by name and the others are done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imageloom.api import process
from imageloom.driver import window
from imageloom.errors import StorageError
from imageloom.model import Limits
from imageloom.records.ledger import Ledger
from program import Run, contents, draw, names


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "FIRST_PAUSE", 0.005)


def test_whatever_lies_in_the_source_the_others_are_done(photos: Path, out: Path) -> None:
    good = (photos / "1.jpg").read_bytes()
    size = good.index(b"\xff\xc0") + 5
    png = draw(photos / "x.png").read_bytes()
    (photos / "broken-link.jpg").symlink_to("nowhere.jpg")
    (photos / "circle.jpg").symlink_to("circle.jpg")
    (photos / "cut-header.jpg").write_bytes(good[:100])
    (photos / "cut.jpg").write_bytes(good[: len(good) // 2])
    (photos / "cut.png").write_bytes(png[: len(png) // 2])
    (photos / "empty.jpg").touch()
    (photos / "folder.jpg").mkdir()
    draw(photos / "folder.jpg" / "inside.jpg")
    (photos / "lies.jpg").write_bytes(good[:size] + b"\x7f\x00\x7f\x00" + good[size + 4 :])
    (photos / "link-to-folder.jpg").symlink_to(photos / "a")
    (photos / "link.jpg").symlink_to(photos / "1.jpg")
    (photos / "no-pixels.jpg").write_bytes(good[:size] + b"\0\0\0\0" + good[size + 4 :])
    (photos / "text.jpg").write_text("This is no image.")
    os.mkfifo(photos / "pipe.jpg")
    Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9.jpg")).write_bytes(good)
    os.mkdir(os.fsencode(photos) + b"/f\xff.jpg")
    ran = Run("grayscale", photos, out)
    assert ran.failed == {
        "broken-link.jpg": "UnreadableItem",
        "caf\\xe9.jpg": "InvalidName",
        "circle.jpg": "UnreadableItem",
        "cut-header.jpg": "CorruptImage",
        "cut.jpg": "CorruptImage",
        "cut.png": "CorruptImage",
        "empty.jpg": "CorruptImage",
        "f\\xff.jpg": "UnreadableItem",
        "folder.jpg": "UnreadableItem",
        "lies.jpg": "LimitExceeded",
        "link-to-folder.jpg": "UnreadableItem",
        "no-pixels.jpg": "CorruptImage",
        "pipe.jpg": "UnreadableItem",
        "text.jpg": "UnsupportedImage",
    }
    assert "--max-pixels" in ran.reason("lies.jpg")
    assert "broken symbolic link" in ran.reason("broken-link.jpg")
    assert ran.numbers == (9, 14, 0)
    assert ran.summary.exit_code == 1
    assert {"folder.jpg/inside.jpg", "link.jpg", "x.png"} <= set(contents(out))
    assert not any(".imageloom" in name for name in names(out))
    with Ledger() as ledger:
        assert {item.key for item in ledger.items(ran.summary.job, "failed")} == set(ran.failed)


def test_a_folder_that_cannot_be_listed_is_reported(photos: Path, out: Path) -> None:
    """One whose path is longer than the system takes: even the superuser cannot list it by name."""
    descriptor = os.open(photos, os.O_RDONLY)
    for _ in range(17):
        os.mkdir("d" * 250, dir_fd=descriptor)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    ran = Run("grayscale", photos, out)
    assert ran.summary.done == 6
    ((key, kind),) = ran.failed.items()
    assert key.startswith("d" * 250 + "/")
    assert kind == "UnreadableItem"
    assert "cannot list" in ran.reason(key)


def test_include_takes_files_and_no_folders(photos: Path, out: Path) -> None:
    (photos / "a" / "noext").write_bytes((photos / "1.jpg").read_bytes())
    assert Run("grayscale", photos, out, include=["*"]).numbers == (7, 0, 0)
    assert (out / "a" / "noext.jpg").exists()


def test_patterns_choose_by_name_or_by_path(photos: Path, out: Path) -> None:
    assert Run("grayscale", photos, out, include=["2.*", "b/*"]).done == [
        "2.jpg",
        "a/2.jpg",
        "b/1.jpg",
        "b/2.jpg",
    ]
    assert Run("grayscale", photos, out, exclude=["a/*", "b/*", "1.jpg"]).numbers == (0, 0, 1)


def test_long_names_are_staged_and_published(photos: Path, out: Path) -> None:
    name = "\N{GRINNING FACE}" * 62 + ".jpg"
    draw(photos / name)
    Run("grayscale", photos, out)
    assert (out / name).exists()


def test_limits_are_refused_with_value_and_flag(photos: Path, out: Path) -> None:
    ran = Run("grayscale", photos / "1.jpg", out, limits=Limits(max_file_size=1000))
    assert ran.failed == {"1.jpg": "LimitExceeded"}
    assert "1,000 (--max-file-size)" in ran.reason("1.jpg")


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there is no file or folder"):
        process("grayscale", tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_paths_that_are_not_utf8_are_refused_by_name(photos: Path, tmp_path: Path) -> None:
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(strange)
    draw(Path(strange) / "1.jpg")
    odd = os.fsdecode(os.fsencode(photos) + b"/\xff.jpg")
    draw(Path(odd))
    for source, sink in ((strange, tmp_path / "out"), (odd, tmp_path / "out"), (photos, strange)):
        with pytest.raises(StorageError, match=r"\\x.* is not UTF-8"):
            process("grayscale", source, sink)


def test_a_sink_that_cannot_be_prepared_is_free_again(photos: Path, out: Path) -> None:
    draw(out / "x.jpg")
    (out / ".imageloom").write_text("in the way")
    for _ in range(2):
        with pytest.raises(StorageError, match="cannot write to"):
            process("grayscale", photos, out)
    (out / ".imageloom").unlink()
    assert process("grayscale", photos, out).done == 6


def test_an_output_name_that_is_a_folder_fails_that_item(photos: Path, out: Path) -> None:
    (out / "1.jpg").mkdir(parents=True)
    ran = Run("grayscale", photos, out, if_exists="overwrite")
    assert ran.failed == {"1.jpg": "UnwritableOutput"}
    assert ran.summary.done == 5
    assert names(out) == names(photos)


def test_a_folder_whose_name_is_that_of_a_format_is_a_folder(photos: Path, out: Path) -> None:
    (photos / "png").mkdir()
    draw(photos / "png" / "inside.png")
    ran = Run("grayscale", photos, out)
    assert ran.failed == {}
    assert (out / "png" / "inside.png").exists()
