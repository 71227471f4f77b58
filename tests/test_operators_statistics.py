"""Operators of the whole image against OpenCV's and Pillow's."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from imageloom import Pipeline
from imageloom.bench.samples import draw_photo
from imageloom.errors import OperatorRefused
from imageloom.model import Pixels
from imageloom.operators.statistics import histograms

PHOTO = (draw_photo(7, 61, 53) // 3 + 40).astype(np.uint8)
GRAY = PHOTO[..., 1].copy()


def test_histograms_count_each_channel() -> None:
    counts = histograms(PHOTO)
    assert counts.shape == (3, 256)
    for channel, row in enumerate(counts):
        levels, times = np.unique(PHOTO[..., channel], return_counts=True)
        np.testing.assert_array_equal(row[levels], times)
        assert row.sum() == PHOTO[..., channel].size
    assert histograms(GRAY.astype(np.uint16) * 257).shape == (1, 65536)


@pytest.mark.parametrize("image", [GRAY, np.full((5, 7), 9, np.uint8), np.array([[3, 200]], np.uint8)])
def test_equalize_is_that_of_opencv(image: Pixels) -> None:
    np.testing.assert_array_equal(Pipeline("equalize")(image), cv2.equalizeHist(image))


def test_equalize_treats_each_channel_by_itself() -> None:
    made = Pipeline("equalize")(PHOTO)
    for channel in range(3):
        alone = np.ascontiguousarray(PHOTO[..., channel])
        np.testing.assert_array_equal(made[..., channel], cv2.equalizeHist(alone))


@pytest.mark.parametrize("cutoff", [0, 1, 10.5])
@pytest.mark.parametrize("image", [PHOTO, GRAY])
def test_autocontrast_is_that_of_pillow(cutoff: float, image: Pixels) -> None:
    theirs = np.asarray(ImageOps.autocontrast(Image.fromarray(image), cutoff)).astype(int)
    # Pillow cuts the fraction off where imageloom rounds.
    assert np.abs(Pipeline(f"autocontrast {cutoff}")(image) - theirs).max() <= 1


def test_autocontrast_reaches_black_and_white_in_16_bits() -> None:
    image = np.linspace(10_000, 50_000, 400).astype(np.uint16).reshape(20, 20)
    made = Pipeline("autocontrast")(image)
    exact = np.rint((image - 10_000.0) * 65535 / 40_000)
    np.testing.assert_array_equal(made, exact)


def test_an_even_channel_stays() -> None:
    even = np.full((5, 7, 3), (9, 0, 255), np.uint8)
    np.testing.assert_array_equal(Pipeline("autocontrast 2")(even), even)
    np.testing.assert_array_equal(Pipeline("equalize")(even), even)


def test_global_operators_refuse_floats_by_name() -> None:
    for name in ("equalize", "autocontrast", "clahe"):
        with pytest.raises(OperatorRefused, match=f"{name} does not take float32"):
            Pipeline(name)(np.zeros((4, 4), np.float32))


def test_clahe_of_one_tile_without_a_limit_is_equalization() -> None:
    levels = np.repeat(np.arange(64, 128, dtype=np.uint8), 64).reshape(64, 64)
    made = Pipeline("clahe 100 tiles=1")(levels)
    share = np.searchsorted(np.sort(levels.ravel()), levels.ravel(), side="right") / levels.size
    assert np.abs(made.ravel() - share * 255).max() <= 1


def test_clahe_raises_contrast_and_keeps_the_chroma() -> None:
    made = Pipeline("clahe")(PHOTO)
    assert made.std() > 1.1 * PHOTO.std()
    before, after = (cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[..., 1:].astype(int) for image in (PHOTO, made))
    inside = ((made > 0) & (made < 255)).all(axis=2)
    assert inside.mean() > 0.5
    assert np.abs(before - after)[inside].max() <= 2
