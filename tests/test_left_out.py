"""Selection: suffixes in any case, files that no format claims, and the real name of what is not an image."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imageloom import process
from imageloom.codecs import header_of
from imageloom.codecs.unknown import name_of
from imageloom.driver.source import Source
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.records.losses import MOST_SUFFIXES, OTHERS, LeftOut
from program import Run, draw, imageloom


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    draw(folder / "a.jpg").rename(folder / "A.JPG")
    draw(folder / "deep" / "b.jpg")
    for name in ("a.CR2", "deep/b.cr2", "c.MOV", "README", "d.xyz.", ".hidden.mov"):
        (folder / name).write_bytes(b"\0\0\0\x18ftypqt  ")
    return folder


@pytest.mark.parametrize(
    ("include", "exclude", "wanted"),
    [
        (("*.jpg",), (), {"A.JPG", "deep/b.jpg"}),
        (("*.JPG",), (), {"A.JPG", "deep/b.jpg"}),
        (("deep/*.Jpg",), (), {"deep/b.jpg"}),
        (("a.*",), (), {"a.CR2"}),
        (("A.*",), (), {"A.JPG"}),
        (("*.cr2", "*.mov"), (), {"a.CR2", "deep/b.cr2", "c.MOV"}),
        ((), ("*.jpg",), set()),
        ((), ("deep/*",), {"A.JPG"}),
    ],
)
def test_patterns_take_suffixes_in_any_case(
    include: tuple[str, ...], exclude: tuple[str, ...], wanted: set[str], photos: Path
) -> None:
    assert {item.key for item in Source(str(photos), include, exclude)} == wanted


def test_patterns_with_a_dot_before_the_suffix(tmp_path: Path) -> None:
    draw(tmp_path / "a.Big.jpg")
    assert [item.key for item in Source(str(tmp_path), ("*.Big*",))] == ["a.Big.jpg"]
    assert list(Source(str(tmp_path), ("*.big*",))) == []


def test_what_is_left_out_is_said(photos: Path, tmp_path: Path) -> None:
    ran = imageloom("run", "invert", photos, tmp_path / "out", "--json")
    assert ran.stderr.rstrip().endswith("; 5 files were left out: 2 .cr2, 2 without a suffix, 1 .mov")
    summary = json.loads(ran.stdout.splitlines()[-1])
    assert summary["left_out"] == {".cr2": 2, "without a suffix": 2, ".mov": 1}
    excluded = process("invert", photos, tmp_path / "o2", exclude=["*.mov", "*.cr2"], engine="serial")
    assert excluded.left_out == {"without a suffix": 2}
    assert process("invert", photos, tmp_path / "o3", include=["*.jpg"], engine="serial").left_out == {}


@pytest.mark.parametrize("command", [("run",), ("watch", "--until-idle", 0)])
def test_a_folder_of_nothing_else(command: tuple[str, ...], tmp_path: Path) -> None:
    for name in ("a.cr2", "b.cr2", "c.mov"):
        (tmp_path / "raw" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "raw" / name).write_bytes(b"raw")
    first, *flags = command
    ran = imageloom(first, "invert", tmp_path / "raw", tmp_path / "out", *flags)
    assert ran.returncode == (3 if first == "run" else 0)
    assert "3 files were left out: 2 .cr2, 1 .mov" in ran.stdout


def test_many_suffixes_are_counted_together() -> None:
    counter = LeftOut()
    for number in range(10 * MOST_SUFFIXES):
        counter.add(f"a.{number}")
    assert len(counter.suffixes) == MOST_SUFFIXES + 1
    assert counter.suffixes[OTHERS] == 9 * MOST_SUFFIXES


def _zip(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "a")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"\xef\xbb\xbf\n  <HTML lang=en>", "an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML file"),
        (gzip.compress(b"x" * 100), "a gzip file"),
        (_zip, "a zip archive"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "a PDF document"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "an MP4 video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a QuickTime video"),
        (b"\x1aE\xdf\xa3\x01\0\0\0", "a Matroska or WebM video"),
        (b"RIFF\x24\0\0\0AVI LIST", "an AVI video"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"\xff\x0a\xfa\x1f", "a JPEG XL image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b'{"error": "not found"}', "a text file"),
        ("Übersicht\n".encode(), "a text file"),
        (("x" * 1023 + "Ü").encode(), "a text file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
            "a pointer of Git LFS: the file was not downloaded",
        ),
        (b"\0" * 64, "a file of zeros"),
        (b"\x93\x12\x00\xfe" * 9, ""),
    ],
)
def test_what_is_not_an_image_is_said_by_its_name(
    data: bytes | Callable[[Path], bytes], name: str, tmp_path: Path
) -> None:
    made = data(tmp_path / "a.zip") if callable(data) else data
    assert name_of(made) == (name or None)
    if "image" not in name:
        with pytest.raises(UnsupportedImage) as refused:
            header_of(made)
        wanted = f"the file is {name}, not an image of" if name else "the file is not an image of"
        assert str(refused.value).startswith(wanted)


def test_an_empty_file_is_said_to_be_empty() -> None:
    with pytest.raises(CorruptImage, match="the file is empty"):
        header_of(b"")


def test_a_run_says_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"<html>404</html>")
    run = Run("invert", tmp_path / "in", tmp_path / "out", engine="serial")
    assert "an HTML page" in run.reason("a.jpg")
