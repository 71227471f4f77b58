"""Choosing items: lists of names, times, and patterns, as the command line takes them."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from imageloom.driver.choosing import checked_names, moment, names_in
from imageloom.errors import UsageError
from program import Run, contents, draw, imageloom


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for number, name in enumerate(("a.jpg", "sub/b.jpg", "sub/deep/c.JPG", "drafts/d.png")):
        draw(tmp_path / "photos" / name, number, 40, 30)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("data", "by_null", "names"),
    [
        (b"a.jpg\nsub/b.jpg\n", False, ("a.jpg", "sub/b.jpg")),
        (b"./a.jpg\r\n\r\n.//sub/b.jpg", False, ("a.jpg", "sub/b.jpg")),
        (b"./a\nb.jpg\0c.jpg\0", True, ("a\nb.jpg", "c.jpg")),
        (b"# 1.jpg\n caf\xc3\xa9.jpg", False, ("# 1.jpg", " caf\u00e9.jpg")),
        (b"", False, ()),
    ],
)
def test_names_in_a_list(data: bytes, by_null: bool, names: tuple[str, ...]) -> None:
    assert names_in(data, "list", by_null) == names


@pytest.mark.parametrize(
    ("data", "by_null", "said"),
    [
        (
            b"a.jpg\n/photos/b.jpg\n",
            False,
            "line 2 of list: '/photos/b.jpg' is absolute: names are relative to",
        ),
        (b"C:\\b.jpg", False, "line 1 of list: 'C:\\\\b.jpg' is absolute"),
        (b"a.jpg\0sub/../../b.jpg\0", True, "name 2 of list: 'sub/../../b.jpg' has '..'"),
        (b"a//b.jpg", False, "line 1 of list: 'a//b.jpg' has an empty part"),
        (b"a.jpg\0b.jpg\0", False, "list has NUL characters: if they separate the names, add --null"),
        (b"a.jpg\ncaf\xe9.jpg\n", False, "line 2 of list is not UTF-8"),
    ],
)
def test_what_a_list_must_not_have(data: bytes, by_null: bool, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        names_in(data, "list", by_null)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("name", "said"), [("a\0b.jpg", "has a NUL character"), ("\ud800.jpg", "is not UTF-8")]
)
def test_what_a_name_must_not_have(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        checked_names([name])


def test_repeated_names_are_said(caplog: pytest.LogCaptureFixture) -> None:
    assert checked_names(["a.jpg", "b.jpg", "./a.jpg", "b.jpg"]) == ("a.jpg", "b.jpg")
    assert "name 3 repeats 'a.jpg' of name 1: it is processed once; 1 more names" in caplog.text


def test_a_moment(tmp_path: Path) -> None:
    now = 1_800_000_000.0
    assert [moment(text, now) for text in ("90s", "2h", "7d", "1.5 w", "2m")] == [
        now - seconds for seconds in (90, 7200, 7 * 86400, 1.5 * 7 * 86400, 120)
    ]
    assert moment("2026-11-01T00:00Z", now) == 1_793_491_200
    assert moment("2026-11-01 14:30+01:00", now) == 1_793_491_200 + 13.5 * 3600
    assert abs(moment("2026-11-01", now) - 1_793_491_200) <= 14 * 3600
    (tmp_path / "mark").touch()
    os.utime(tmp_path / "mark", (5, 5))
    assert moment(str(tmp_path / "mark"), now) == 5


@pytest.mark.parametrize("given", ["yesterday", "2026-13-01", "7 days", "", "no/such/file", "\0"])
def test_what_is_no_moment(given: str) -> None:
    with pytest.raises(UsageError, match="is neither a time nor a file that exists: give 2026-11-01"):
        moment(given)


@pytest.mark.parametrize(
    ("options", "outputs", "code"),
    [
        (["--include", "sub/**/*.jpg"], ["sub/b.jpg", "sub/deep/c.JPG"], 0),
        (["--exclude", "sub"], ["a.jpg", "drafts/d.png"], 0),
        (["--include", "*.{jpg,png}", "--exclude", "drafts/"], ["a.jpg", "sub/b.jpg", "sub/deep/c.JPG"], 0),
        (["--files-from", "list"], ["a.jpg", "sub/b.jpg"], 0),
        (["--files-from", "list", "--exclude", "a.*"], ["sub/b.jpg"], 0),
        (["--files-from", "list", "--include", "sub"], ["sub/b.jpg"], 0),
        (["--files-from", "nulls", "-0"], ["a.jpg"], 0),
        (["--files-from", "wrong"], ["a.jpg"], 1),
        (["--files-from", "empty"], [], 3),
        (["--newer-than", "2020-01-01"], ["a.jpg", "drafts/d.png", "sub/deep/c.JPG"], 0),
        (["--newer-than", "mark"], ["a.jpg", "drafts/d.png", "sub/deep/c.JPG"], 0),
        (["--newer-than", "36500d"], ["a.jpg", "drafts/d.png", "sub/b.jpg", "sub/deep/c.JPG"], 0),
        (["--newer-than", "2020-01-01", "--files-from", "list"], ["a.jpg"], 0),
    ],
)
def test_what_is_chosen(folder: Path, options: list[str], outputs: list[str], code: int) -> None:
    (folder / "list").write_text("a.jpg\nsub/b.jpg\n")
    (folder / "nulls").write_bytes(b"./a.jpg\0")
    (folder / "wrong").write_text("a.jpg\nnone.jpg\nsub\nsub/deep/\n")
    (folder / "empty").touch()
    (folder / "mark").touch()
    os.utime(folder / "mark", (1_500_000_000, 1_500_000_000))
    os.utime(folder / "photos/sub/b.jpg", (1_400_000_000, 1_400_000_000))
    ran = imageloom("run", "flip", "photos", "out", *options, "--ledger", "ledger.db")
    assert ran.returncode == code, ran.stderr
    assert sorted(contents(folder / "out")) == outputs
    if code == 1:
        assert "failed: none.jpg: UnreadableItem: there is no such file in the source" in ran.stderr
        assert "failed: sub: UnreadableItem: it is a folder: give the names of its files" in ran.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--files-from", "gone"], "'gone' does not exist"),
        (["--null"], "--null is about the names of --files-from"),
        (["--files-from", "list"], "line 1 of list: '/a.jpg' is absolute"),
        (["--newer-than", "tomorrow"], "'tomorrow' is neither a time nor a file"),
        (["--newer-than", "2999-01-01"], "'2999-01-01' is in the future"),
    ],
)
def test_a_wrong_choice_is_named_and_nothing_is_written(folder: Path, options: list[str], said: str) -> None:
    (folder / "list").write_text("/a.jpg\n")
    ran = imageloom("run", "flip", "photos", "out", *options)
    assert (ran.returncode, said in ran.stderr) == (2, True), ran.stderr
    assert not (folder / "out").exists()


def test_a_list_on_stdin_and_of_one_file(folder: Path) -> None:
    ran = imageloom("run", "flip", "photos", "out", "--files-from", "-", input="sub/b.jpg\n")
    assert (ran.returncode, list(contents(folder / "out"))) == (0, ["sub/b.jpg"]), ran.stderr
    ran = imageloom("run", "flip", "photos/a.jpg", "two", "--files-from", "-", input="a.jpg\n")
    assert (ran.returncode, "photos/a.jpg is a file" in ran.stderr) == (2, True), ran.stderr


def test_a_list_of_names_in_an_archive(folder: Path) -> None:
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for name in ("a.jpg", "sub/b.jpg"):
            archive.write(folder / "photos" / name, name)
    names = ("sub/b.jpg", "none.jpg")
    ran = Run("flip", f"zip://{folder}/photos.zip", folder / "out", files=names, ledger=folder / "ledger.db")
    assert (ran.done, ran.failed) == (["sub/b.jpg"], {"none.jpg": "UnreadableItem"})
