"""Blurs against sums written out over shifted copies, in double precision."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from imageloom import Pipeline
from imageloom.bench.samples import draw_photo
from imageloom.model import Pixels
from imageloom.operators.blur import line

PHOTO = draw_photo(2, 41, 37)
DEEP = PHOTO.astype(np.uint16) * 257
FLOAT = (PHOTO / 255).astype(np.float32)
Floats = NDArray[np.float64]


def shifted(image: Pixels, reach: int, x: int, y: int) -> Floats:
    """The image moved so that the pixel at x, y from each one lies on it; mirrored at the edges."""
    around = [(reach, reach), (reach, reach), (0, 0)][: image.ndim]
    padded = np.pad(image.astype(np.float64), around, mode="reflect")
    return padded[reach + y : reach + y + image.shape[0], reach + x : reach + x + image.shape[1]]


def weighted(image: Pixels, reach: int, weight: Callable[[int, int], float]) -> Floats:
    """The mean of the pixels around each one with those weights."""
    window = [(x, y) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1) if weight(x, y)]
    total = sum(weight(x, y) * shifted(image, reach, x, y) for x, y in window)
    return np.asarray(total / sum(weight(x, y) for x, y in window))


@pytest.mark.parametrize(
    ("image", "off"), [(PHOTO, 0.51), (PHOTO[..., 1].copy(), 0.51), (DEEP, 0.6), (FLOAT, 1e-6)]
)
def test_box_blur_is_the_mean(image: Pixels, off: float) -> None:
    assert np.abs(Pipeline("box_blur 7")(image) - weighted(image, 3, lambda x, y: 1)).max() < off


# OpenCV's weights for integers have 8 bits after the point for 8-bit pixels, and 16 for others.
@pytest.mark.parametrize(("image", "off"), [(PHOTO, 1.5), (DEEP, 4), (FLOAT, 1e-6)])
def test_gaussian_blur_has_gaussian_weights(image: Pixels, off: float) -> None:
    exact = weighted(image, 5, lambda x, y: float(np.exp(-(x * x + y * y) / (2 * 1.5**2))))
    assert np.abs(Pipeline("gaussian_blur 1.5")(image) - exact).max() < off


def test_median_blur_is_the_median() -> None:
    around = np.pad(PHOTO, ((2, 2), (2, 2), (0, 0)), mode="edge")
    exact = np.median(np.lib.stride_tricks.sliding_window_view(around, (5, 5), axis=(0, 1)), axis=(-2, -1))
    np.testing.assert_array_equal(Pipeline("median_blur 5")(PHOTO), exact)


def test_a_line_runs_through_the_middle() -> None:
    assert line(5, 0) == [(-2, 0), (-1, 0), (0, 0), (1, 0), (2, 0)]
    assert line(3, 90) == [(0, 1), (0, 0), (0, -1)]
    assert line(3, 45) == [(-1, 1), (0, 0), (1, -1)]
    assert line(2, 0) == [(0, 0), (1, 0)]
    assert line(1, 33) == [(0, 0)]


@pytest.mark.parametrize("text", ["motion_blur 15", "motion_blur 9 90", "motion_blur 21 angle=-37.5"])
@pytest.mark.parametrize(("image", "off"), [(PHOTO, 0.51), (DEEP, 0.51), (FLOAT, 1e-6)])
def test_motion_blur_is_the_mean_along_a_line(text: str, image: Pixels, off: float) -> None:
    (step,) = Pipeline(text)
    length, angle = int(str(step.params["length"])), float(str(step.params.get("angle", 0)))
    exact = sum(shifted(image, length, x, y) for x, y in line(length, angle)) / length
    assert np.abs(Pipeline(text)(image) - exact).max() < off


def test_motion_blur_smears_along_its_angle_alone() -> None:
    dot = np.zeros((21, 21), np.float32)
    dot[10, 10] = 1
    rows, columns = np.nonzero(Pipeline("motion_blur 11 angle=45")(dot))
    np.testing.assert_array_equal(rows + columns, 20)
    assert len(np.unique(rows)) == len(rows) > 5


@pytest.mark.parametrize(("image", "top", "off"), [(PHOTO, 255, 1.01), (DEEP, 65535, 8), (FLOAT, 1, 1e-4)])
def test_bilateral_weighs_by_distance_and_difference(image: Pixels, top: int, off: float) -> None:
    total, weights = np.zeros(image.shape), np.zeros((*image.shape[:2], 1))
    for y in range(-3, 4):
        for x in range(-3, 4):
            if x * x + y * y > 9:  # OpenCV's window is round
                continue
            other = shifted(image, 3, x, y)
            differs = np.abs(other - image).sum(axis=2, keepdims=True) / top * 255
            weight = np.exp(-(x * x + y * y) / (2 * 2.0**2) - differs**2 / (2 * 40.0**2))
            total += weight * other
            weights += weight
    assert np.abs(Pipeline("bilateral 7 40 2")(image) - total / weights).max() < off


@pytest.mark.parametrize(("image", "off"), [(PHOTO, 3), (FLOAT, 1e-5)])
def test_sharpen_adds_what_a_blur_takes(image: Pixels, off: float) -> None:
    top = 255 if image.dtype == np.uint8 else 1
    exact = image + 1.5 * (image - weighted(image, 3, lambda x, y: float(np.exp(-(x * x + y * y) / 2))))
    made = np.clip(Pipeline("sharpen 1 1.5")(image), 0, top)
    assert np.abs(made - np.clip(exact, 0, top)).max() < off


def test_sharpen_by_nothing_changes_nothing() -> None:
    for image in (PHOTO, DEEP, FLOAT):
        np.testing.assert_array_equal(Pipeline("sharpen 2 0")(image), image)
