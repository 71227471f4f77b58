"""Outputs whose inputs are gone (--prune), and outputs whose ledger was lost (--adopt)."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from imageloom.driver.run import Driver
from imageloom.engines import Settings, open_engine
from imageloom.errors import StorageError, UsageError
from imageloom.model import Job, Output, Recipe
from imageloom.recipes.pipeline import Pipeline
from imageloom.records.events import Event, Pruned
from imageloom.records.ledger import Ledger
from places import Memory
from program import Run, contents, draw, imageloom

RUN = ("run", "flip", "photos", "out", "--ledger", "ledger.db")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three photos and their outputs; the input of two of them is gone."""
    for number, name in enumerate(("a.jpg", "sub/b.jpg", "sub/c.jpg")):
        draw(tmp_path / "photos" / name, number, 40, 30)
    monkeypatch.chdir(tmp_path)
    Run("flip", "photos", "out", ledger="ledger.db")
    (tmp_path / "photos/sub/b.jpg").unlink()
    (tmp_path / "photos/sub/c.jpg").unlink()
    return tmp_path


def pruned(folder: Path) -> dict[str, str]:
    """The orphans of a run that prunes, each with the reason why it is kept."""
    ran = Run("flip", "photos", "out", ledger="ledger.db", prune=True)
    return {event.name: event.kept for event in ran.events if isinstance(event, Pruned)}


def test_they_are_listed_then_removed(folder: Path) -> None:
    ran = imageloom(*RUN, "--prune", "--dry-run")
    assert (ran.returncode, "to be removed: sub/b.jpg (its input sub/b.jpg is gone)" in ran.stderr) == (
        0,
        True,
    )
    assert "2 outputs would be removed (--prune)" in ran.stderr
    ran = imageloom(*RUN, "--prune", stdin=None)
    assert (ran.returncode, "there is no terminal to ask at: add --yes" in ran.stderr) == (2, True), (
        ran.stderr
    )
    assert sorted(contents(folder / "out")) == ["a.jpg", "sub/b.jpg", "sub/c.jpg"]
    ran = imageloom(*RUN, "--prune", "--yes", "--json")
    assert (ran.returncode, list(contents(folder / "out"))) == (0, ["a.jpg"]), ran.stderr
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["output"] for line in lines if line["event"] == "removed"] == ["sub/b.jpg", "sub/c.jpg"]
    ran = imageloom(*RUN, "--prune")
    assert (ran.returncode, "to be removed" in ran.stderr) == (0, False)


def test_only_unchanged_outputs_of_this_source_are_removed(folder: Path) -> None:
    out = folder / "out"
    (out / "sub/b.jpg").write_bytes((out / "sub/b.jpg").read_bytes())  # the same bytes, but another's file
    (out / "sub/foreign.jpg").write_bytes(b"of another program")
    draw(folder / "others/d.jpg", 7, 40, 30)
    Run("flip", "others", "out", ledger="ledger.db")
    (folder / "others/d.jpg").unlink()
    assert pruned(folder) == {"sub/b.jpg": "it was changed since", "sub/c.jpg": ""}
    assert sorted(contents(out)) == ["a.jpg", "d.jpg", "sub/b.jpg", "sub/foreign.jpg"]


def test_links_are_not_followed(folder: Path) -> None:
    (folder / "out/sub").rename(folder / "elsewhere")
    (folder / "out/sub").symlink_to(folder / "elsewhere")
    assert set(pruned(folder).values()) == {"its folder is a link, or a file"}
    (folder / "out/sub").unlink()
    (folder / "elsewhere").rename(folder / "out/sub")
    (folder / "out/sub/b.jpg").rename(folder / "b.jpg")
    (folder / "out/sub/b.jpg").symlink_to(folder / "b.jpg")
    assert pruned(folder)["sub/b.jpg"] == "it was changed since"
    assert (folder / "b.jpg").exists()


def test_a_source_that_lost_all_its_files_prunes_nothing(folder: Path) -> None:
    (folder / "photos/a.jpg").unlink()
    with pytest.raises(StorageError, match="if its disk is not mounted"):
        pruned(folder)
    assert len(contents(folder / "out")) == 3


def test_a_folder_that_cannot_be_read_is_not_gone(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (folder / "photos/sub").chmod(0)
    try:
        assert pruned(folder) == {}
    finally:
        (folder / "photos/sub").chmod(0o755)


def test_a_renamed_input_gets_the_name_that_was_pruned(folder: Path) -> None:
    draw(folder / "photos/sub/b.jpeg", 8, 40, 30)
    name = "{dir}/{stem}.jpg"
    assert Run("flip", "photos", "out", ledger="ledger.db", name=name).failed == {
        "sub/b.jpeg": "OutputExists"
    }
    assert Run("flip", "photos", "out", ledger="ledger.db", name=name, prune=True).done == ["sub/b.jpeg"]
    assert pruned(folder) == {}


def test_a_ledger_of_an_earlier_program_gets_the_column(folder: Path) -> None:
    with closing(sqlite3.connect("ledger.db")) as db, db:
        db.execute("ALTER TABLE outputs DROP COLUMN mtime")
    assert set(pruned(folder).values()) == {"it was written by an earlier version, which did not record when"}


def test_an_object_store(folder: Path) -> None:
    sink = "memory://prune/out"
    draw(folder / "photos/sub/b.jpg", 1, 40, 30)
    Run("flip", "photos", sink, ledger="ledger.db")
    (folder / "photos/sub/b.jpg").unlink()
    ran = Run("flip", "photos", sink, ledger="ledger.db", prune=True)
    assert [(event.name, event.kept) for event in ran.events if isinstance(event, Pruned)] == [
        ("sub/b.jpg", "")
    ]


def test_an_item_that_a_remote_listing_leaves_out_is_not_gone(folder: Path) -> None:
    photos, keys = Memory("hidden"), ("a.jpg", ".private/b.jpg", "c.jpg")
    for key in keys:
        photos.put(key, (folder / "photos/a.jpg").read_bytes())
    Run("flip", photos.address, "from_store", ledger="ledger.db", files=keys)
    photos.remove("c.jpg")
    ran = Run("flip", photos.address, "from_store", ledger="ledger.db", prune=True)
    assert [event.name for event in ran.events if isinstance(event, Pruned)] == ["c.jpg"]


def test_a_run_that_is_stopped_removes_no_more_outputs(folder: Path) -> None:
    with Ledger("ledger.db") as ledger, closing(open_engine("serial", Settings())) as engine:
        driver: Driver
        job = Job("photos", "out", Recipe((Output(Pipeline.parse("flip").steps),)))

        def stop(event: Event) -> None:
            if isinstance(event, Pruned):
                driver.stop()

        driver = Driver(job, engine, ledger, listeners=[stop])
        assert len(driver.prune()) == 2
        assert driver.run().interrupted
        assert [name for name, *_ in ledger.outputs_of(*map(os.path.abspath, ("photos", "out")))] == [
            "a.jpg", "sub/c.jpg"
        ]  # fmt: skip
    assert sorted(contents(folder / "out")) == ["a.jpg", "sub/c.jpg"]


def test_a_folder_with_the_name_of_an_output_is_not_adopted(folder: Path) -> None:
    (folder / "ledger.db").unlink()
    (folder / "out/a.jpg").unlink()
    (folder / "out/a.jpg").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert Run("flip", "photos", "out", ledger="ledger.db", adopt=True).failed == {
            "a.jpg": "OutputExists"
        }
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"in_place": True, "sink": "photos"}, "--prune excludes --in-place"),
        ({"source": "photos/a.jpg"}, "--prune needs a folder as the source"),
        ({"adopt": True, "if_exists": "skip"}, "--adopt excludes --if-exists skip"),
    ],
)
def test_what_is_not_possible(folder: Path, options: dict[str, object], said: str) -> None:
    places = {"source": "photos", "sink": "out"} | options
    prune = "adopt" not in options
    with pytest.raises(UsageError, match=said):
        Run("flip", ledger="ledger.db", prune=prune, **places)  # type: ignore[arg-type]


@pytest.mark.parametrize("durable", [False, True])
def test_outputs_are_adopted_by_their_bytes(folder: Path, durable: bool) -> None:
    draw(folder / "photos/sub/b.jpg", 1, 40, 30)
    (folder / "ledger.db").unlink()
    (folder / "out/sub/b.jpg").write_bytes(b"of another program")
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*.jpg")}
    ran = Run("flip", "photos", "out", ledger="ledger.db", adopt=True, durable=durable)
    assert (ran.done, ran.failed) == (["a.jpg"], {"sub/b.jpg": "OutputExists"})
    assert "differs from what this run would write" in ran.reason("sub/b.jpg")
    assert {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*.jpg")} == before
    again = Run("flip", "photos", "out", ledger="ledger.db")
    assert again.skipped == {"a.jpg": "done before"}
    assert again.failed == {"sub/b.jpg": "OutputExists"}


def test_an_adopted_output_can_be_pruned(folder: Path) -> None:
    (folder / "ledger.db").unlink()
    draw(folder / "photos/sub/b.jpg", 1, 40, 30)
    Run("flip", "photos", "out", ledger="ledger.db", adopt=True)
    (folder / "photos/sub/b.jpg").unlink()
    assert pruned(folder) == {"sub/b.jpg": ""}


def test_a_killed_adoption_leaves_no_claim(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim on a file of another program would let the next run overwrite it."""
    (folder / "ledger.db").unlink()
    (folder / "out/a.jpg").write_bytes(b"of another program")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("imageloom.stores.made.equal_file", die)
        with pytest.raises(KeyboardInterrupt):
            Run("flip", "photos", "out", ledger="ledger.db", adopt=True, engine="serial")
    assert Run("flip", "photos", "out", ledger="ledger.db").failed == {"a.jpg": "OutputExists"}
    assert (folder / "out/a.jpg").read_bytes() == b"of another program"
