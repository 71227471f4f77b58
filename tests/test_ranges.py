"""Operators that need values from 0 to 1 refuse float images with others, by name. Other operators do not."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from imageloom import operators
from imageloom.errors import OperatorRefused
from imageloom.model import Frame, Step
from imageloom.recipes.pipeline import Pipeline
from tiffs import ramp, run, tiff

HEIGHTS = 7 * ramp(top=424, dtype="int16").astype(np.float32) - 50
"""Metres, from -50 to less than 3,000."""
RANGED = {
    "adaptive_threshold": "adaptive_threshold",
    "bilateral": "bilateral",
    "brightness": "brightness 0",
    "contrast": "contrast 1",
    "gamma": "gamma 1",
    "hue": "hue 10",
    "invert": "invert",
    "laplacian": "laplacian",
    "posterize": "posterize 4",
    "saturation": "saturation 1",
    "scharr": "scharr",
    "sepia": "sepia 0",
    "sobel": "sobel",
    "threshold": "threshold 128",
}
FREE = (
    "auto_orient",
    "box_blur 3",
    "crop 20x20",
    "dilate",
    "erode",
    "flip",
    "gaussian_blur 2",
    "grayscale",
    "median_blur",
    "motion_blur 5",
    "pad 4",
    "pixelate 4",
    "resize 50%",
    "resize 20x20 kernel=lanczos",
    "rotate 90",
    "sharpen",
)


def test_every_operator_of_floats_is_known_here() -> None:
    named = {one.name for one in operators.operators() if one.function.__module__.startswith("imageloom.")}
    floats = {name for name in named if "float32" in operators.get(name).dtypes}
    others = {"close", "open", "to_srgb", "border", "overlay", "text", "trim"}  # they have tests of their own
    assert floats <= {*RANGED, *(text.split()[0] for text in FREE), *others, "lut"}
    assert {name for name in named if operators.get(name).ranged} == {*RANGED, "lut"}  # which needs a file


@pytest.mark.parametrize("name", RANGED)
def test_values_outside_the_range_are_refused_alike_whole_and_in_tiles(name: str, tmp_path: Path) -> None:
    files = {"heights.tif": tiff(HEIGHTS, tile=(16, 16)), "inside.tif": tiff(np.abs(HEIGHTS) / 3000)}
    made = run(tmp_path, files, f"resize 32x24 | {RANGED[name]}")
    assert set(made.made) == {"inside.tif"}
    said = made.failed["heights.tif"]
    assert said.startswith(f"OperatorRefused: {name} needs values from 0 (black) to 1 (white)")
    assert f"from {HEIGHTS.min():g} to {HEIGHTS.max():g}" in said


@pytest.mark.parametrize("text", FREE)
def test_other_operators_do_not_bound_the_values(text: str, tmp_path: Path) -> None:
    made = run(tmp_path, {"heights.tif": tiff(HEIGHTS, tile=(16, 16))}, text).pixels("heights.tif")
    scaled = Pipeline(text)((HEIGHTS + 50) / 4096) * 4096 - 50
    inner = made[4:-4, 4:-4]
    assert np.abs(inner - scaled[4:-4, 4:-4]).max() < 1
    assert inner.max() > 1000
    assert np.ptp(inner) > 500


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    holes = HEIGHTS / 3000
    holes[5:7, 8:10] = np.nan
    endless = np.abs(HEIGHTS) / 3000
    endless[0, 0] = np.inf
    files = {"holes.tif": tiff(holes, tile=(16, 16)), "endless.tif": tiff(endless, tile=(16, 16))}
    made = run(tmp_path, files, "brightness 5")
    assert "has 4 values that are not numbers (NaN)" in made.failed["holes.tif"]
    assert "has values from 0" in made.failed["endless.tif"]
    assert "to inf" in made.failed["endless.tif"]
    blurred = run(tmp_path / "blurred", files, "rotate 90 | gaussian_blur 1").pixels("holes.tif")
    assert np.isnan(blurred).any()
    assert not np.isnan(blurred).all()


def test_a_sharper_image_may_exceed_the_range_at_edges() -> None:
    image = cv2.GaussianBlur((ramp() > 128).astype(np.float32), (3, 3), 0)
    image = np.clip(image, 0, 1)
    assert Pipeline("sharpen 1 amount=3")(image).max() > 1
    assert Pipeline("sharpen 1 amount=3 | brightness 0")(image).max() == 1


def test_arrays_in_memory_are_checked_too() -> None:
    with pytest.raises(OperatorRefused, match="brightness needs values"):
        Pipeline("flip | brightness 1")(HEIGHTS)


def test_only_floats_are_checked() -> None:
    steps = (Step("sharpen"), Step("invert"))
    assert operators.with_checks(steps, Frame(9, 9, 3, "uint16")) == steps
    checked = operators.with_checks(steps, Frame(9, 9, 3, "float32"))
    assert [step.name for step in checked] == ["check_range", "sharpen", "invert"]
