"""A link, or a file of others, where outputs are staged or published: nothing outside of the sink is touched."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imageloom.api import process
from imageloom.errors import StorageError, UnwritableOutput
from imageloom.model import Output, Recipe
from imageloom.recipes.pipeline import Pipeline
from imageloom.records.events import Done, Event
from imageloom.stores import open_store
from imageloom.stores.local import LocalStore
from imageloom.stores.names import STAGING, new_token
from places import sftp_server
from program import Run, contents, draw, imageloom, names

TOKEN = "1-1-1-0123456789ab"
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of somebody else's, with names as of staged files in it."""
    folder = tmp_path / "victim"
    for name in ("letter.txt", f"{TOKEN}-0", f"{TOKEN}-input", "deep/er/photo.jpg", f"{TOKEN}-1/zarr.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"precious")
    return folder


def run(photos: Path, sink: Path) -> list[object]:
    return ["run", "grayscale", photos, sink]


COMMANDS: dict[str, Callable[[Path, Path], list[object]]] = {
    "run": run,
    "tiles": lambda photos, sink: [*run(photos, sink), "--tile", "always", "--engine", "processes"],
    "in place": lambda photos, sink: ["run", "grayscale", sink, "--in-place"],
    "watch": lambda photos, sink: ["watch", "grayscale", photos, sink, "--until-idle", "1"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("target", ["victim", "victim/deep", "nowhere", "victim/letter.txt"])
def test_a_link_in_the_place_of_the_staging_folder_is_refused(
    command: str, target: str, photos: Path, out: Path, victim: Path
) -> None:
    draw(out / "mine.jpg", 5)
    (out / STAGING).symlink_to(victim.parent / target)
    before, mine = contents(victim), contents(photos)
    ran = imageloom(*COMMANDS[command](photos, out))
    assert ran.returncode == 4, ran.stderr
    assert f"{out / STAGING}: it is a symbolic link" in ran.stderr
    assert contents(victim) == before
    assert contents(photos) == mine
    assert not (victim.parent / "nowhere").exists()


@pytest.mark.parametrize("arguments", [["--remove"], []])
def test_doctor_follows_no_link(arguments: list[str], out: Path, victim: Path) -> None:
    out.mkdir()
    (out / STAGING).symlink_to(victim)
    before = contents(victim)
    ran = imageloom("doctor", out, *arguments)
    assert ran.returncode == 1
    assert "it is a symbolic link" in ran.stdout
    assert contents(victim) == before
    assert (out / STAGING).is_symlink()


@AS_ROOT
def test_a_staging_folder_of_another_owner_is_refused(photos: Path, out: Path) -> None:
    (out / STAGING).mkdir(parents=True)
    (out / STAGING / TOKEN).write_bytes(b"theirs")
    os.chown(out / STAGING, 12345, 12345)
    for command in (run(photos, out), ["doctor", out, "--remove"]):
        ran = imageloom(*command)
        assert ran.returncode in (1, 4)
        assert "belongs to another user" in ran.stdout + ran.stderr
    assert names(out / STAGING) == [TOKEN]


def test_only_what_was_staged_is_removed(photos: Path, out: Path, victim: Path) -> None:
    staging = out / STAGING
    for name in ("notes.txt", "2026-01-02", "1-1-1-input", "their folder/1.jpg"):
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).write_bytes(b"theirs")
    (staging / "their link").symlink_to(victim)
    theirs = names(staging)
    for name in (f"{new_token('7', 1, 1)}-0", f"{new_token('7', 1, 2)}-input", f"{new_token('7', 2, 1)}.old"):
        (staging / name).write_bytes(b"left")
    (staging / f"{TOKEN}-0" / "c").mkdir(parents=True)
    (staging / f"{TOKEN}-0" / "c" / "0").symlink_to(victim / "letter.txt")
    (staging / f"{TOKEN}-0" / "d").symlink_to(victim)
    (staging / f"{TOKEN}-1").symlink_to(victim)
    before = contents(victim)
    found = imageloom("doctor", out)
    assert "imageloom did not make" in found.stdout
    assert imageloom("doctor", out, "--remove").returncode == 1
    assert names(staging) == theirs
    (staging / f"{TOKEN}-1").symlink_to(victim)
    ran = imageloom(*run(photos, out))
    assert ran.returncode == 0, ran.stderr
    assert "did not make" in ran.stderr
    assert names(staging) == theirs
    assert contents(victim) == before


KINDS: dict[str, dict[str, object]] = {
    "threads": {"engine": "threads"},
    "processes": {"engine": "processes"},
    "tiles": {"engine": "processes", "tile": "always"},
    "pieces": {"engine": "threads", "tile": "always"},
    "zarr": {"engine": "processes", "format": "zarr"},
    "zarr in pieces": {"engine": "threads", "format": "zarr", "tile": "always"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_that_is_swapped_in_during_a_run_is_not_followed(
    kind: str, photos: Path, out: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "pieces" in kind:
        monkeypatch.setattr("imageloom.model.image.LARGE", 1)
    for number in range(20):
        draw(photos / "more" / f"{number}.jpg", number, 200, 150)
    before = names(victim), contents(victim)

    def swap(event: Event) -> None:
        if isinstance(event, Done) and not (out / STAGING).is_symlink():
            (out / STAGING).rename(out / "moved")
            (out / STAGING).symlink_to(victim)

    process("gaussian_blur 2", photos, out, listeners=[swap], jobs=2, **KINDS[kind])  # type: ignore[arg-type]
    assert (out / STAGING).is_symlink()
    assert (names(victim), contents(victim)) == before


@pytest.mark.parametrize("if_exists", ["error", "skip", "overwrite"])
@pytest.mark.parametrize("inside", [False, True])
def test_outputs_are_not_written_through_a_link(
    if_exists: str, inside: bool, photos: Path, out: Path, victim: Path
) -> None:
    target = out / "real" if inside else victim
    target.mkdir(parents=True, exist_ok=True)
    out.mkdir(exist_ok=True)
    (target / "1.jpg").write_bytes(b"foreign")
    (out / "a").symlink_to(target)
    before = contents(target)
    ran = Run("grayscale", photos, out, if_exists=if_exists)
    assert ran.failed == {"a/1.jpg": "OutputExists", "a/2.jpg": "OutputExists"}
    assert "a folder of the sink is a symbolic link" in ran.reason("a/1.jpg")
    assert len(ran.done) == 4
    assert contents(target) == before


def test_a_folder_that_becomes_a_link_before_the_publication(out: Path, victim: Path) -> None:
    store = LocalStore(str(out))
    store.prepare()
    for token, key in ((f"{TOKEN}-0", "a/b/1.jpg"), (f"{TOKEN}-1", "a/b/letter.txt")):
        store.stage(token, b"output")
        (out / "a").mkdir(exist_ok=True)
        if not (out / "a" / "b").is_symlink():
            (out / "a" / "b").symlink_to(victim)
        before = contents(victim)
        with pytest.raises(UnwritableOutput, match="a/b: it is a symbolic link"):
            store.publish(token, key)
        assert contents(victim) == before
    store.tidy()


def test_what_was_staged_must_be_a_file(out: Path, victim: Path) -> None:
    """A link would be an output that shows what it leads to."""
    store = LocalStore(str(out))
    store.prepare()
    (out / STAGING / TOKEN).symlink_to(victim / "letter.txt")
    with pytest.raises(UnwritableOutput, match="not a regular file"):
        store.publish(TOKEN, "1.jpg")
    for token in ("../1.jpg", "..", "a/b", ""):
        with pytest.raises(UnwritableOutput):
            store.publish(token, "2.jpg")
        with pytest.raises(UnwritableOutput):
            store.discard(token)
    store.tidy()
    assert names(out) == []


@pytest.fixture
def sftp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """The address and the path of a folder on an SFTP server."""
    from fsspec.config import conf

    monkeypatch.setitem(conf, "sftp", {"password": "secret"})
    (tmp_path / "served" / "out").mkdir(parents=True)
    with sftp_server(tmp_path / "served") as port:
        yield f"sftp://me@127.0.0.1:{port}/out", tmp_path / "served" / "out"
    open_store.cache_clear()


def test_a_link_on_an_sftp_server_is_refused(photos: Path, sftp: tuple[str, Path], victim: Path) -> None:
    address, out = sftp
    there = victim.rename(out.parent / "victim")
    (out / STAGING).symlink_to("../victim")
    before = contents(there)
    with pytest.raises(StorageError, match="is a symbolic link"):
        process("grayscale", photos, address)
    assert contents(there) == before
    (out / STAGING).unlink()
    (out / "a").symlink_to("../victim")
    ran = Run("grayscale", photos, address, if_exists="overwrite")
    assert ran.failed == {"a/1.jpg": "OutputExists", "a/2.jpg": "OutputExists"}
    assert contents(there) == before
    assert STAGING not in names(out)


def test_several_outputs_are_published_into_their_folders(photos: Path, out: Path) -> None:
    """Folders are made, and those that are there are used, at every depth."""
    steps = Pipeline.parse("grayscale").steps
    recipe = Recipe((Output(steps, folder="gray/deep"), Output(steps, folder="")))
    (out / "gray").mkdir(parents=True)
    assert process(recipe, photos, out).done == 6
    expected = {f"{folder}{key}" for folder, key in itertools.product(("", "gray/deep/"), contents(photos))}
    assert set(contents(out)) == expected
