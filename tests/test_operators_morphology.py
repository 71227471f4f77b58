"""Morphology against minima and maxima over windows."""

import numpy as np
import pytest
from numpy.typing import NDArray

from imageloom import Pipeline
from imageloom.bench.samples import draw_photo
from imageloom.model import Pixels

PHOTO = draw_photo(6, 37, 31)
DTYPES = {"uint8": 255, "uint16": 65535, "float32": 1}
SHAPES: dict[str, NDArray[np.bool_]] = {
    "square": np.ones((5, 5), bool),
    "cross": np.array([[x == 2 or y == 2 for x in range(5)] for y in range(5)]),
    "ellipse": np.array([[abs(y - 2) < 2 or x == 2 for x in range(5)] for y in range(5)]),
}


def extreme(image: Pixels, window: NDArray[np.bool_], largest: bool) -> Pixels:
    """The largest or the smallest value within the window; what lies beyond the image has no part."""
    fill = -np.inf if largest else np.inf
    around = np.pad(image.astype(np.float64), ((2, 2), (2, 2), (0, 0)), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(around, (5, 5), axis=(0, 1))[..., window]
    return np.asarray(windows.max(axis=-1) if largest else windows.min(axis=-1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_morphology_is_minima_and_maxima(shape: str, dtype: str) -> None:
    image = (PHOTO / 255 * DTYPES[dtype]).astype(dtype)
    window = SHAPES[shape]
    eroded, dilated = extreme(image, window, False), extreme(image, window, True)
    for name, exact in (
        ("erode", eroded),
        ("dilate", dilated),
        ("open", extreme(eroded, window, True)),
        ("close", extreme(dilated, window, False)),
    ):
        np.testing.assert_array_equal(Pipeline(f"{name} 5 {shape}")(image), exact)


def test_opening_takes_spots_and_closing_fills_holes() -> None:
    image = np.zeros((20, 20), np.uint8)
    image[4:16, 4:16] = 255
    spotted, holed = image.copy(), image.copy()
    spotted[1, 18] = 255
    holed[9, 9] = 0
    np.testing.assert_array_equal(Pipeline("open 3")(spotted), image)
    np.testing.assert_array_equal(Pipeline("close 3")(holed), image)
