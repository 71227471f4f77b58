"""Zarr as a sink: every tile a chunk of its own, read back by the zarr library."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from imageloom.bench.samples import draw_photo
from imageloom.codecs import get
from imageloom.errors import MissingExtra
from imageloom.model import Encoding
from imageloom.recipes.pipeline import Pipeline
from program import Run, contents, names

IMAGE = draw_photo(3, 1300, 1100)
DEEP = (draw_photo(4, 600, 530)[:, :, 0].astype(np.uint16) << 8) | 77
BLUR = "gaussian_blur 2"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("imageloom.tiling.assemble.PART_PIXELS", 1300 * 64)
    folder = tmp_path / "photos" / "a"
    folder.mkdir(parents=True)
    (folder / "photo.png").write_bytes(get("png").encode(IMAGE, Encoding(0)))
    (folder / "deep.png").write_bytes(get("png").encode(DEEP, Encoding(0)))
    return folder.parent


def pixels(path: Path) -> Any:
    array = zarr.open_array(str(path), mode="r")
    assert array.metadata.zarr_format == 3
    return np.asarray(array[:])


@pytest.mark.parametrize("engine", ["serial", "processes"])
@pytest.mark.parametrize("tile", ["never", "always"])
def test_whole_and_tiled_make_the_same_array(photos: Path, out: Path, tile: Any, engine: str) -> None:
    run = Run(BLUR, photos, out, format="zarr", tile=tile, engine=engine, jobs=2)
    assert run.numbers == (2, 0, 0)
    assert np.array_equal(pixels(out / "a/photo.zarr"), Pipeline(BLUR)(IMAGE))
    assert np.array_equal(pixels(out / "a/deep.zarr"), Pipeline(BLUR)(DEEP))
    assert (
        len([name for name in names(out / "a/photo.zarr") if (out / "a/photo.zarr" / name).is_file()]) == 10
    )
    assert sorted(p.name for p in out.iterdir()) == ["a"]
    whole = Run(BLUR, photos, out.with_name("whole"), format="zarr", tile="never")
    assert whole.numbers == (2, 0, 0)
    assert contents(out) == contents(out.with_name("whole"))


def test_what_is_done_is_not_done_again_unless_a_chunk_is_gone(photos: Path, out: Path) -> None:
    def run(text: str = BLUR, **options: Any) -> tuple[int, int, int]:
        return Run(text, photos, out, format="zarr", **options).numbers

    assert run() == (2, 0, 0)
    assert run() == (0, 0, 2)
    (out / "a/photo.zarr/c/0/0/0").unlink()
    assert run() == (1, 0, 1)
    assert np.array_equal(pixels(out / "a/photo.zarr"), Pipeline(BLUR)(IMAGE))
    assert run("invert", tile="always") == (2, 0, 0)
    assert np.array_equal(pixels(out / "a/photo.zarr"), 255 - IMAGE)
    assert sorted(p.name for p in (out / "a").iterdir()) == ["deep.zarr", "photo.zarr"]


def test_a_folder_of_others_is_left_alone(photos: Path, out: Path) -> None:
    (out / "a/photo.zarr").mkdir(parents=True)
    (out / "a/photo.zarr/mine").write_text("mine")
    assert Run(BLUR, photos, out, format="zarr").failed == {"a/photo.png": "OutputExists"}
    assert contents(out / "a/photo.zarr") == {"mine": b"mine"}
    assert Run(BLUR, photos, out, format="zarr", if_exists="overwrite", tile="always").numbers == (1, 0, 1)
    assert np.array_equal(pixels(out / "a/photo.zarr"), Pipeline(BLUR)(IMAGE))


@pytest.mark.parametrize("tile", ["never", "always"])
def test_what_fails_leaves_no_array(photos: Path, out: Path, tile: Any) -> None:
    data = (photos / "a/photo.png").read_bytes()
    (photos / "a/photo.png").write_bytes(data[: len(data) // 2])
    run = Run(BLUR, photos, out, format="zarr", tile=tile)
    assert (run.done, run.failed) == (["a/deep.png"], {"a/photo.png": "CorruptImage"})
    assert sorted(str(p.relative_to(out)) for p in out.glob("**/*.zarr")) == ["a/deep.zarr"]
    assert sorted(p.name for p in out.iterdir()) == ["a"]


def test_the_missing_library_is_named(photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get.cache_clear()
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(MissingExtra, match=r"pip install 'imageloom\[zarr\]'"):
        Run("median_blur 3", photos, out, format="zarr")  # not planned before
    assert not list(out.rglob("*.zarr"))


def test_an_array_is_no_item(photos: Path, tmp_path: Path, out: Path) -> None:
    Run(BLUR, photos, tmp_path / "arrays", format="zarr")
    shutil.copy(photos / "a/deep.png", tmp_path / "arrays/deep.png")
    run = Run("invert", tmp_path / "arrays", out)
    assert run.done == ["deep.png"]
    assert set(run.failed) == {"a/deep.zarr", "a/photo.zarr"}
    assert "it is a folder" in run.reason("a/deep.zarr")
