"""Thresholds against OpenCV's own."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageloom import Pipeline
from imageloom.bench.samples import draw_photo
from imageloom.errors import OperatorRefused
from imageloom.model import Frame, Pixels
from imageloom.operators.threshold import histogram, otsu
from imageloom.testing.strategies import SIZES, images

GRAY = draw_photo(5, 61, 53)[..., 1].copy()
sizes = st.sampled_from(SIZES)


@settings(deadline=None)
@given(image=st.builds(Frame, sizes, sizes, st.just(1)).flatmap(images))
def test_otsu_finds_the_level_of_opencv(image: Pixels) -> None:
    cv2.ipp.setUseIPP(False)  # where two levels are as good, IPP takes another one than OpenCV
    level, theirs = cv2.threshold(image, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    assert otsu(histogram(image)) == level
    np.testing.assert_array_equal(Pipeline("threshold otsu")(image), theirs)


def test_otsu_wants_one_channel_of_8_bits() -> None:
    with pytest.raises(OperatorRefused, match="threshold: otsu takes one channel"):
        Pipeline("threshold")(np.dstack([GRAY] * 3))
    with pytest.raises(OperatorRefused, match="threshold: otsu takes 8-bit pixels, not uint16"):
        Pipeline("threshold")(GRAY.astype(np.uint16))


@pytest.mark.parametrize(("dtype", "top"), [("uint8", 255), ("uint16", 65535), ("float32", 1)])
def test_threshold_is_white_above_the_level(dtype: str, top: int) -> None:
    image = (np.arange(256) / 255 * top).astype(dtype).reshape(16, 16)
    np.testing.assert_array_equal(Pipeline("threshold 128")(image).ravel(), [0] * 129 + [top] * 127)


@pytest.mark.parametrize("kernel", [3, 11, 51])
@pytest.mark.parametrize("offset", [-7, 0, 2])
@pytest.mark.parametrize(
    ("method", "theirs"), [("mean", cv2.ADAPTIVE_THRESH_MEAN_C), ("gaussian", cv2.ADAPTIVE_THRESH_GAUSSIAN_C)]
)
def test_adaptive_threshold_is_that_of_opencv(kernel: int, offset: int, method: str, theirs: int) -> None:
    made = Pipeline(f"adaptive_threshold {kernel} {offset} {method}")(GRAY)
    exact = cv2.adaptiveThreshold(GRAY, 255, theirs, cv2.THRESH_BINARY, kernel, offset)
    np.testing.assert_array_equal(made, exact)


def test_adaptive_threshold_is_the_same_on_every_scale() -> None:
    made = Pipeline("adaptive_threshold 11 offset=2.5")(GRAY)
    assert 0 < np.count_nonzero(made) < made.size
    deep = Pipeline("adaptive_threshold 11 offset=2.5")(GRAY.astype(np.uint16) * 257)
    floats = Pipeline("adaptive_threshold 11 offset=2.5")((GRAY / 255).astype(np.float32))
    np.testing.assert_array_equal(deep, made.astype(np.uint16) * 257)
    np.testing.assert_array_equal(floats, made / 255)
