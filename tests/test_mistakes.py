"""Usual mistakes on the command line: each message names what was given, what is meant, and an example."""

from __future__ import annotations

from pathlib import Path

import pytest

from program import contents, draw, imageloom

PHOTO = "photos/a.jpg"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    draw(tmp_path / PHOTO, 1, 40, 30)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["resize 64", "photos", "out"], "resize: size = 64: it must be WIDTHxHEIGHT"),
        (["resize 64px", "photos", "out"], "resize: size = '64px': it must be WIDTHxHEIGHT"),
        (
            ["rotate 45", "photos", "out"],
            "rotate: degrees = 45: it must be 90, 180 or 270; for example: rotate ",
        ),
        (
            ["resize 9x9 fit=crop", "photos", "out"],
            "fit = 'crop': it must be exact, inside, cover, pad, max or min",
        ),
        (["resize", "photos", "out"], "resize: size is missing: WIDTHxHEIGHT"),
        (["resize 9x9 widht=3", "photos", "out"], "there is no parameter 'widht'"),
        (["flip up down", "photos", "out"], "flip: 2 values are given, but it takes at most 1: axis"),
        (["grayscale 3", "photos", "out"], "grayscale: it takes no parameters"),
        (["blur 3", "photos", "out"], "'blur' (did you mean gaussian_blur, box_blur or median_blur?)"),
        (["gray", "photos", "out"], "'gray' (did you mean grayscale?)"),
        (["mirror", "photos", "out"], "'mirror' (did you mean flip?)"),
        (["thumbnail 9x9", "photos", "out"], "'thumbnail' (did you mean resize?)"),
        (
            ["photos", "out", "resize 9x9"],
            "PIPELINE is the first argument: 'resize 9x9' photos",
        ),
        (["flip", "photos", ""], "the sink is empty"),
        (["flip", "", "out"], "the source is empty"),
        (["flip", "photos", "~/out"], "the sink '~/out' begins with '~'"),
        (["flip", "~me/photos", "out"], "the source '~me/photos' begins with '~'"),
        (["flip", "photos", "C:\\out"], "is a path of Windows"),
        (
            ["flip", PHOTO, "b.png", "--format", "jpeg"],
            "'b.png' says png, but its format is jpeg",
        ),
        (
            ["flip", "photos", "out", "--engine", "threads", "--bind", "tcp://[::1]:1"],
            "not take --bind: remove it, or choose an --engine that takes it: zeromq",
        ),
        (
            ["flip", "photos", "out", "--engine", "pipeline", "--connect", "x"],
            "does not take --connect: remove it",
        ),
        (
            ["flip", "photos", "out", "--engine", "redis", "--keys", "x"],
            "redis does not take --keys: remove it",
        ),
        (
            ["flip", "photos", "out", "--engine", "mpi", "--bind", "tcp://[::1]:1"],
            "mpi does not take --bind",
        ),
    ],
)
def test_a_mistake_is_named_and_nothing_is_written(folder: Path, arguments: list[str], said: str) -> None:
    ran = imageloom("run", *arguments)
    assert (ran.returncode, said in ran.stderr) == (2, True), ran.stderr
    assert "Traceback" not in ran.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["photos"]


@pytest.mark.parametrize("sink", ["b.png", "sub/b.png", "./b.png"])
def test_one_file_becomes_one_file(folder: Path, sink: str) -> None:
    for said in ("1 of 1 done", "1 of 1 is up to date"):
        ran = imageloom("run", "flip", PHOTO, sink, "--ledger", folder / "ledger.db")
        assert (ran.returncode, said in ran.stdout) == (0, True), ran.stdout + ran.stderr
    assert (folder / sink).read_bytes().startswith(b"\x89PNG")


def test_one_file_goes_into_a_folder_that_has_a_suffix(folder: Path) -> None:
    (folder / "b.png").mkdir()
    assert imageloom("run", "flip", PHOTO, "b.png", "--ledger", folder / "ledger.db").returncode == 0
    assert list(contents(folder / "b.png")) == ["a.jpg"]


def test_a_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    (folder / "file").write_bytes(b"")
    ran = imageloom("demo", "file/below")
    assert (ran.returncode, "Traceback" in ran.stderr) == (4, False), ran.stderr
    assert "cannot use file/below" in ran.stderr


def test_a_configuration_takes_hyphens_and_underscores(folder: Path) -> None:
    for option in ("if-exists", "if_exists"):
        (folder / "config.yaml").write_text(f"run: {{{option}: nothing}}")
        ran = imageloom("--config", folder / "config.yaml", "run", "flip", "photos", "out")
        assert (ran.returncode, "'nothing' is not one of" in ran.stderr) == (2, True), ran.stderr


@pytest.mark.parametrize("engine", ["processes", "zeromq", "mpi"])
def test_a_temporary_folder_whose_path_is_too_long_for_a_socket(
    engine: str, photos: Path, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "mpi":
        pytest.importorskip("mpi4py")
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    refused = imageloom("run", "invert", photos, out, "--engine", engine, "-j", 1)
    assert refused.returncode == 4
    (told,) = (line for line in refused.stderr.splitlines() if line.startswith("imageloom"))
    assert "too long for a socket" in told
    assert "set TMPDIR" in told
    assert "Traceback" not in refused.stderr
    assert list(deep.iterdir()) == []
