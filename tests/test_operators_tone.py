"""Tone operators against formulas written out for single values."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from imageloom import Pipeline
from imageloom.bench.samples import draw_photo
from imageloom.model import Frame, Pixels
from imageloom.operators.values import look_up
from imageloom.recipes.rewrite import rewrite

LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)
PHOTO = draw_photo(1, 61, 47)

FORMULAS: dict[str, Callable[[float], float]] = {
    "invert": lambda v: 1 - v,
    "brightness 10": lambda v: v + 10 / 255,
    "brightness -25.5": lambda v: v - 0.1,
    "contrast 1.7": lambda v: 0.5 + 1.7 * (v - 0.5),
    "contrast 0": lambda v: 0.5,
    "gamma 1.2": lambda v: v ** (1 / 1.2),
    "gamma 0.45": lambda v: v ** (1 / 0.45),
    "posterize 4": lambda v: round(3 * v) / 3,
    "auto_orient": lambda v: v,
}


@pytest.mark.parametrize("text", FORMULAS)
@pytest.mark.parametrize(("dtype", "top"), [("uint8", 255), ("uint16", 65535), ("float32", 1)])
def test_a_value_becomes_what_its_formula_says(text: str, dtype: str, top: int) -> None:
    values = (LEVELS / 255 * top).astype(dtype)
    exact = [min(1.0, max(0.0, FORMULAS[text](float(v) / top))) * top for v in values.ravel()]
    made = Pipeline(text)(values).ravel().astype(np.float64)
    assert np.abs(made - exact).max() <= (1e-6 if dtype == "float32" else 0.5 + 1e-6)


@pytest.mark.parametrize("shape", [(101, 997), (800, 601, 3), (801, 601, 3), (548, 548), (2, 160_001)])
def test_large_images_are_looked_up_as_small_ones_are(shape: tuple[int, ...]) -> None:
    """Two bytes at once, or one by one where they are odd in number or lie apart."""
    random = np.random.default_rng(4)
    image = random.integers(0, 256, shape, np.uint8)
    table = random.permutation(256).astype(np.uint8)
    for view in (image, image[:, ::2], image[1:, 1:]):
        np.testing.assert_array_equal(look_up(view, table), table[view])


def test_tones_leave_alpha_alone() -> None:
    image = np.dstack((PHOTO, PHOTO[..., 0]))
    for text in (*FORMULAS, "saturation 2", "sepia"):
        np.testing.assert_array_equal(Pipeline(text)(image)[..., 3], image[..., 3])


def test_a_run_of_tones_folds_into_one_table_with_the_same_result() -> None:
    pipeline = Pipeline("posterize 4 | gamma 1.2 | invert | brightness 10")
    folded = rewrite(pipeline.steps, Frame(61, 47, 3))
    assert [step.name for step in folded] == ["table"]
    np.testing.assert_array_equal(Pipeline(folded)(PHOTO), pipeline(PHOTO))


def test_grayscale_is_the_weighted_sum() -> None:
    exact = PHOTO @ np.array([0.299, 0.587, 0.114])
    assert np.abs(Pipeline("grayscale")(PHOTO) - exact).max() < 0.51


@pytest.mark.parametrize("factor", [0, 0.5, 1.5, 3])
def test_saturation_is_that_of_pillow(factor: float) -> None:
    theirs = np.asarray(ImageEnhance.Color(Image.fromarray(PHOTO)).enhance(factor)).astype(int)
    # Pillow rounds the luma before it goes on.
    assert np.abs(Pipeline(f"saturation {factor}")(PHOTO) - theirs).max() <= 1 + factor


def test_saturation_of_one_and_of_gray_changes_nothing() -> None:
    np.testing.assert_array_equal(Pipeline("saturation 1")(PHOTO), PHOTO)
    np.testing.assert_array_equal(Pipeline("saturation 4")(LEVELS), LEVELS)


@pytest.mark.parametrize(("amount", "pixel"), [(1, (79, 70, 55)), (0, (100, 50, 10)), (0.5, (90, 60, 32))])
def test_sepia_mixes_the_matrix_in(amount: float, pixel: tuple[int, int, int]) -> None:
    image: Pixels = np.full((1, 1, 3), (100, 50, 10), np.uint8)
    assert Pipeline(f"sepia {amount}")(image).ravel().tolist() == pytest.approx(pixel, abs=1)


def test_sepia_of_gray_is_coloured_and_keeps_alpha() -> None:
    assert Pipeline("sepia")(LEVELS).shape == (16, 16, 3)
    image = np.dstack((LEVELS, LEVELS.T))
    made = Pipeline("sepia")(image)
    assert made.shape == (16, 16, 4)
    np.testing.assert_array_equal(made[..., 3], LEVELS.T)
