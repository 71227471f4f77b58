"""A new release processes only the items again whose outputs it changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from imageloom import codecs
from imageloom.bench.samples import draw_photo
from imageloom.model import Encoding, Output, Recipe, Step
from imageloom.operators import versions
from imageloom.recipes.meaning import Meanings
from program import Run, draw


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    draw(folder / "a.jpg")
    draw(folder / "b.png")
    webp = codecs.encode("webp", draw_photo(1, 40, 30), Encoding(80))
    assert isinstance(webp, bytes)
    (folder / "c.webp").write_bytes(webp)
    return folder


def change(monkeypatch: pytest.MonkeyPatch, format: str, **changed: int) -> None:
    known = codecs._KNOWN[format]
    monkeypatch.setitem(codecs._KNOWN, format, known._replace(versions=known.versions._replace(**changed)))


def test_meanings_of_earlier_releases_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """As this text is in ledgers that exist, it must not change for plain recipes."""
    for format in codecs._KNOWN:
        change(monkeypatch, format, decoder=0, encoder=0)
    monkeypatch.setattr(versions, "VERSIONS", {})
    recipe = Recipe((Output((Step("resize", {"size": "50%"}),), format="png"),), metadata="strict")
    expected = (
        '[2,{"decode":"safe","metadata":"keep","operators":[],"outputs":[{"folder":"","format":"png",'
        '"quality":null,"steps":[{"name":"resize","params":{"size":"50%"}}]}]},[],"{stem}.{ext}"]'
    )
    for key in ("a.jpg", "b.tif", "c.unknown", "README"):
        assert Meanings(recipe, "{stem}.{ext}").of(key) == expected


@pytest.mark.parametrize(
    ("format", "changed", "options", "again"),
    [
        ("webp", {"encoder": 7}, {}, ["c.webp"]),
        ("webp", {"encoder": 7}, {"format": "webp"}, ["a.jpg", "b.png", "c.webp"]),
        ("webp", {"encoder": 7}, {"format": "png"}, []),
        ("webp", {"decoder": 7}, {"format": "png"}, ["c.webp"]),
        ("png", {"decoder": 7, "encoder": 7}, {}, ["b.png"]),
        ("gif", {"decoder": 7, "encoder": 7}, {}, []),
    ],
)
def test_only_the_items_concerned_are_done_again(
    format: str,
    changed: dict[str, int],
    options: dict[str, str],
    again: list[str],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run() -> list[str]:
        return Run("invert", photos, tmp_path / "out", engine="serial", **options).done

    assert len(run()) == 3
    assert run() == []
    change(monkeypatch, format, **changed)
    assert run() == again
    assert run() == []


def test_a_changed_operator_concerns_the_recipes_with_it(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pipeline in ("invert", "grayscale"):
        assert len(Run(pipeline, photos, tmp_path / pipeline, engine="serial").done) == 3
    monkeypatch.setitem(versions.VERSIONS, "grayscale", 7)
    assert Run("invert", photos, tmp_path / "invert", engine="serial").done == []
    assert len(Run("grayscale", photos, tmp_path / "grayscale", engine="serial").done) == 3


def test_a_format_without_its_library_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(asked: object, found: object) -> str:
        from imageloom.errors import MissingExtra

        raise MissingExtra("TIFF", "tiff")

    monkeypatch.setattr(codecs, "written_as", missing)
    change(monkeypatch, "tiff", encoder=7)
    assert '"tiff encoder":7' in Meanings(Recipe((Output(()),)), "{stem}.{ext}").of("a.tif")
