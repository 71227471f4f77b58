"""`--in-place` replaces the only copy: what a file has beside its pixels stays, or its item fails by name."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from imageloom.api import process
from imageloom.bench.samples import draw_photo
from imageloom.codecs import get
from imageloom.model import Encoding
from imageloom.records.events import Collected, Event
from program import Run, contents, draw, names

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def in_place(photos: Path, text: str = "invert", **options: Any) -> Run:
    return Run(text, photos, photos, in_place=True, **options)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o444, 0o664, 0o755, 0o2640])
@pytest.mark.parametrize("options", [{}, {"tile": "always", "engine": "processes"}], ids=["whole", "tiles"])
def test_the_mode_stays(mode: int, options: dict[str, Any], tmp_path: Path) -> None:
    photo = draw(tmp_path / "photos" / "a" / "1.png")
    photo.chmod(mode)
    before = photo.read_bytes()
    assert in_place(tmp_path / "photos", **options).numbers == (1, 0, 0)
    assert stat.S_IMODE(photo.stat().st_mode) == mode
    assert photo.read_bytes() != before
    assert in_place(tmp_path / "photos", **options).numbers == (0, 0, 1)


@AS_ROOT
def test_the_owner_stays(photos: Path) -> None:
    os.chown(photos / "1.jpg", 12345, 54321)
    (photos / "1.jpg").chmod(0o4750)
    os.chown(photos / "2.jpg", 12345, 0)
    assert in_place(photos).numbers == (6, 0, 0)
    found = (photos / "1.jpg").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 54321, 0o4750)
    found = (photos / "2.jpg").stat()
    assert (found.st_uid, found.st_gid) == (12345, 0)


@AS_ROOT
def test_an_owner_that_cannot_be_kept_fails_the_item(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not root gives no file away: it would become his."""
    os.chown(photos / "1.jpg", 12345, 12345)
    before = contents(photos)
    monkeypatch.setattr(os, "fchown", refuse)
    ran = in_place(photos)
    assert ran.failed == {"1.jpg": "UnwritableOutput"}
    assert "its owner 12345:12345 cannot be kept: Operation not permitted" in ran.reason("1.jpg")
    assert (photos / "1.jpg").read_bytes() == before["1.jpg"]


def refuse(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def set_attributes(path: Path, **attributes: bytes) -> None:
    try:
        for name, value in attributes.items():
            os.setxattr(path, f"user.{name}", value)
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error}")


def test_extended_attributes_stay(photos: Path) -> None:
    set_attributes(photos / "1.jpg", rating=b"5", comment="é".encode(), empty=b"")
    (photos / "1.jpg").chmod(0o400)
    before = {name: os.getxattr(photos / "1.jpg", name) for name in os.listxattr(photos / "1.jpg")}
    assert in_place(photos).numbers == (6, 0, 0)
    assert {n: os.getxattr(photos / "1.jpg", n) for n in os.listxattr(photos / "1.jpg")} == before
    assert [name for name in os.listxattr(photos / "2.jpg") if name.startswith("user.")] == []


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An access list as the kernel has it: of tags, permissions and ids."""
    return b"\2\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + id.to_bytes(4, "little")
        for tag, bits, id in entries
    )


NOBODY = 2**32 - 1
LIST = acl((1, 6, NOBODY), (2, 4, 12345), (4, 4, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY))
"""The owner reads and writes, user 12345 reads, others do not."""


def test_access_lists_stay_and_none_comes_from_the_folder(photos: Path) -> None:
    try:
        os.setxattr(photos / "1.jpg", "system.posix_acl_access", LIST)
        os.setxattr(photos, "system.posix_acl_default", LIST)
    except OSError as error:
        pytest.skip(f"no access lists here: {error}")
    (photos / "2.jpg").chmod(0o600)
    assert in_place(photos).numbers == (6, 0, 0)
    assert os.getxattr(photos / "1.jpg", "system.posix_acl_access") == LIST
    assert "system.posix_acl_access" not in os.listxattr(photos / "2.jpg")
    assert stat.S_IMODE((photos / "2.jpg").stat().st_mode) == 0o600


def test_an_attribute_that_cannot_be_kept_fails_the_item(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_attributes(photos / "1.jpg", rating=b"5")
    before = contents(photos)

    monkeypatch.setattr(os, "setxattr", refuse)
    ran = in_place(photos)
    assert ran.failed == {"1.jpg": "UnwritableOutput"}
    assert "its attribute 'user.rating' cannot be kept" in ran.reason("1.jpg")
    assert (photos / "1.jpg").read_bytes() == before["1.jpg"]
    assert not [name for name in names(photos) if name.startswith(".")]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_file_of_several_names_is_refused(elsewhere: bool, photos: Path, tmp_path: Path) -> None:
    other = (tmp_path if elsewhere else photos) / "other.jpg"
    other.hardlink_to(photos / "1.jpg")
    before = contents(photos)
    ran = in_place(photos)
    assert ran.failed == dict.fromkeys(["1.jpg"] if elsewhere else ["1.jpg", "other.jpg"], "OutputExists")
    assert "2 hard links" in ran.reason("1.jpg")
    assert (photos / "1.jpg").read_bytes() == before["1.jpg"]
    assert (photos / "1.jpg").samefile(other)


def test_a_link_that_came_meanwhile_and_new_content_are_left_alone(photos: Path, tmp_path: Path) -> None:
    """What happened between the reading and the replacing is somebody's work."""
    edits = {"1.jpg": b"edited", "2.jpg": b""}

    def edit(event: Event) -> None:
        if isinstance(event, Collected):
            for key, data in edits.items():
                if (photos / key).stat().st_size != len(data):
                    (photos / key).write_bytes(data)
            if not (tmp_path / "other").exists():
                (tmp_path / "other").hardlink_to(photos / "a" / "1.jpg")
                (photos / "a" / "2.jpg").rename(tmp_path / "moved")
                (photos / "a" / "2.jpg").symlink_to(tmp_path / "moved")

    before = contents(photos)
    failed: dict[str, str] = {}

    def note(event: Event) -> None:
        result = getattr(event, "result", None)
        if type(event).__name__ == "Failed" and result and result.failure:
            failed[result.key] = result.failure.message

    process("invert", photos, photos, in_place=True, engine="serial", listeners=[edit, note])
    assert failed.keys() >= {"1.jpg", "2.jpg", "a/1.jpg", "a/2.jpg"}
    assert contents(photos) | before == {**contents(photos), **before}
    for key, data in edits.items():
        assert (photos / key).read_bytes() == data
    assert (tmp_path / "moved").read_bytes() == before["a/2.jpg"]
    assert (tmp_path / "other").read_bytes() == before["a/1.jpg"]


def test_the_time_of_modification_is_new(photos: Path) -> None:
    """What compares sizes and times, as a backup does, sees each change: also where the size is the same."""
    (photos / "x.bmp").write_bytes(get("bmp").encode(draw_photo(1, 120, 90), Encoding(90)))
    size = (photos / "x.bmp").stat().st_size
    for path in photos.rglob("*.*"):
        os.utime(path, ns=(1, 1_000_000_000))
    assert in_place(photos).numbers == (7, 0, 0)
    assert (photos / "x.bmp").stat().st_size == size
    assert all(path.stat().st_mtime_ns > 1_000_000_000 for path in photos.rglob("*.*"))
    assert in_place(photos).numbers == (0, 0, 7)


def test_bytes_and_record_are_on_the_disk_before_the_file_is_replaced(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves the old file or the new one, whole, and the ledger knows which."""
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def sync(file: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")
        fsync(file)

    def move(*arguments: Any, **options: Any) -> None:
        calls.append("rename")
        rename(*arguments, **options)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", move)
    assert in_place(photos, engine="serial").numbers == (6, 0, 0)
    assert calls == ["file", "rename", "folder"] * 6
