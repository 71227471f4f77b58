"""Tables of colours against Pillow's Color3DLUT, and damaged files."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFilter

from imageloom import Pipeline
from imageloom.bench.samples import draw_photo
from imageloom.errors import OperatorRefused
from imageloom.model import Pixels
from imageloom.testing.strategies import SAMPLES

PHOTO = draw_photo(3, 161, 121)
WARM = SAMPLES / "warm.cube"


def close(made: Pixels, other: Pixels, levels: int = 2) -> None:
    """At most so many levels apart, on 99.9% of the values."""
    assert made.shape == other.shape
    assert (np.abs(made.astype(int) - other.astype(int)) <= levels).mean() >= 0.999


def cube(entries: Pixels, size: str, *more: str) -> str:
    lines = (" ".join(f"{value:.6f}" for value in entry) for entry in entries.reshape(-1, 3))
    return "\n".join((f"{size} {len(entries)}", *more, *lines)) + "\n"


def random_cube(side: int) -> Pixels:
    return np.random.default_rng(7).random((side, side, side, 3), np.float32)


@pytest.mark.parametrize("side", [2, 5, 33])
def test_a_cube_is_that_of_pillow(tmp_path: Path, side: int) -> None:
    entries = random_cube(side)
    (file := tmp_path / "a.cube").write_text(cube(entries, "LUT_3D_SIZE", 'TITLE "any"', "# a remark"))
    theirs = Image.fromarray(PHOTO).filter(ImageFilter.Color3DLUT(side, entries.ravel().tolist()))
    made = Pipeline(f"lut {file}")(PHOTO)
    close(made, np.asarray(theirs))
    close(Pipeline(f"lut {file}")(PHOTO.astype(np.uint16) * 257) // 257, made, 1)
    close(np.rint(Pipeline(f"lut {file}")(PHOTO / np.float32(255)) * 255), made, 1)
    close(Pipeline(f"lut {file} amount=0.5")(PHOTO), (made.astype(int) + PHOTO) // 2, 1)


@pytest.mark.parametrize("level", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_hald_picture_is_its_cube(tmp_path: Path, level: int, dtype: str) -> None:
    entries = random_cube(level * level)
    pixels = np.rint(entries * np.iinfo(dtype).max).astype(dtype).reshape(level**3, level**3, 3)
    cv2.imwrite(str(tmp_path / "a.png"), pixels[..., ::-1])
    table = ImageFilter.Color3DLUT(level * level, entries.ravel().tolist())
    close(Pipeline(f"lut {tmp_path / 'a.png'}")(PHOTO), np.asarray(Image.fromarray(PHOTO).filter(table)))


def test_a_curve_for_each_channel(tmp_path: Path) -> None:
    curves = np.stack([np.linspace(0, 1, 9) ** power for power in (0.5, 1, 2)], axis=1)
    (file := tmp_path / "a.cube").write_text(cube(curves, "LUT_1D_SIZE"))
    expected = [np.interp(PHOTO[..., c] / 255, np.linspace(0, 1, 9), curves[:, c]) for c in range(3)]
    close(Pipeline(f"lut {file}")(PHOTO), np.rint(np.dstack(expected) * 255), 1)


def test_an_input_range(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 5)[:, None].repeat(3, axis=1)
    (file := tmp_path / "a.cube").write_text(
        cube(ramp, "LUT_1D_SIZE", "DOMAIN_MIN 0.2 0.2 0.2", "DOMAIN_MAX 0.8 0.8 0.8")
    )
    expected = np.rint(np.clip((PHOTO / 255 - 0.2) / 0.6, 0, 1) * 255)
    close(Pipeline(f"lut {file}")(PHOTO), expected, 1)


def test_the_identity_changes_nothing(tmp_path: Path) -> None:
    grid = np.linspace(0, 1, 17)
    blue, green, red = np.meshgrid(grid, grid, grid, indexing="ij")
    (file := tmp_path / "a.cube").write_text(cube(np.stack((red, green, blue), 3), "LUT_3D_SIZE"))
    close(Pipeline(f"lut {file}")(PHOTO), PHOTO, 0)
    close(Pipeline(f"lut {WARM} amount=0")(PHOTO), PHOTO, 0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "neither a HALD"),
        (b"hello", "neither a HALD"),
        (b"LUT_3D_SIZE many\n", "line 1"),
        (b"LUT_3D_SIZE\n", "line 1"),
        (b"LUT_3D_SIZE 1000000\n0 0 0\n", "neither a HALD"),
        (b"LUT_3D_SIZE -4\n0 0 0\n", "neither a HALD"),
        (b"LUT_3D_SIZE 2\n0 0 0\n", "has 3 numbers for 24"),
        (b"LUT_3D_SIZE 2\n" + b"0 0 x\n" * 8, "not a number"),
        (b"LUT_3D_SIZE 2\n" + b"0 0 nan\n" * 8, "numbers for 24"),
        (b"LUT_3D_SIZE 2\nDOMAIN_MIN 1 1 1\n" + b"0 0 0\n" * 8, "no valid range"),
        (b"LUT_3D_SIZE 2\nDOMAIN_MIN 1\n" + b"0 0 0\n" * 8, "no valid range"),
        (bytes(range(256)) * 20, "neither a HALD"),
        ((SAMPLES / "logo.png").read_bytes(), "64x32 is no HALD"),
    ],
)
def test_damaged_tables_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (file := tmp_path / "a.cube").write_bytes(content)
    with pytest.raises(OperatorRefused, match=said):
        Pipeline(f"lut {file}")(PHOTO)


def test_gray_images_are_refused() -> None:
    with pytest.raises(OperatorRefused, match="the image is gray"):
        Pipeline(f"grayscale | lut {WARM}")(PHOTO)


@pytest.mark.long
def test_a_table_of_ten_megabytes_is_read_in_seconds(tmp_path: Path) -> None:
    (file := tmp_path / "a.cube").write_text(cube(random_cube(72), "LUT_3D_SIZE"))
    assert file.stat().st_size > 10e6
    start = time.monotonic()
    Pipeline(f"lut {file}")(PHOTO)
    assert time.monotonic() - start < 20
