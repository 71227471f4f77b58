"""Edge operators against their kernels, written out."""

import numpy as np
import pytest
from numpy.typing import NDArray

from imageloom import Pipeline
from imageloom.bench.samples import draw_photo
from imageloom.model import Pixels

PHOTO = draw_photo(3, 53, 43)
SOBEL = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
SCHARR = [[-3, 0, 3], [-10, 0, 10], [-3, 0, 3]]
CROSS = [[0, 1, 0], [1, -4, 1], [0, 1, 0]]


def correlate(image: Pixels, kernel: list[list[int]]) -> NDArray[np.float64]:
    """The sum of the neighbours by a kernel of 3 x 3; mirrored at the edges."""
    around = np.pad(image.astype(np.float64), [(1, 1), (1, 1), (0, 0)][: image.ndim], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3), axis=(0, 1))
    return np.asarray((windows * np.array(kernel)).sum(axis=(-2, -1)))


def transposed(kernel: list[list[int]]) -> list[list[int]]:
    return [list(column) for column in zip(*kernel, strict=True)]


@pytest.mark.parametrize(("name", "kernel"), [("sobel", SOBEL), ("scharr", SCHARR)])
@pytest.mark.parametrize(("dtype", "top"), [("uint8", 255), ("uint16", 65535), ("float32", 1)])
def test_gradients(name: str, kernel: list[list[int]], dtype: str, top: int) -> None:
    image = (PHOTO / 255 * top).astype(dtype)
    x, y = correlate(image, kernel), correlate(image, transposed(kernel))
    off = 1e-5 if dtype == "float32" else 0.6
    for text, exact in (
        (name, np.hypot(x, y)),
        (f"{name} axis=x", np.abs(x)),
        (f"{name} axis=y scale=0.25", np.abs(y) / 4),
    ):
        assert np.abs(Pipeline(text)(image) - np.clip(exact, 0, top)).max() < off


@pytest.mark.parametrize(("dtype", "top"), [("uint8", 255), ("uint16", 65535), ("float32", 1)])
def test_laplacian(dtype: str, top: int) -> None:
    image = (PHOTO[..., 1] / 255 * top).astype(dtype)
    exact = np.clip(np.abs(correlate(image, CROSS)) * 0.5, 0, top)
    off = 1e-5 if dtype == "float32" else 0.6
    assert np.abs(Pipeline("laplacian scale=0.5")(image) - exact).max() < off


def test_edges_of_an_even_image_are_black() -> None:
    even = np.full((9, 7, 3), 200, np.uint8)
    for name in ("sobel", "sobel 7", "scharr", "laplacian", "laplacian 5", "canny", "edge_mask"):
        assert not Pipeline(name)(even).any()


def test_edges_drop_transparency() -> None:
    image = np.dstack((PHOTO, PHOTO[..., 0]))
    for name in ("sobel", "scharr", "laplacian"):
        np.testing.assert_array_equal(Pipeline(name)(image), Pipeline(name)(PHOTO))


def test_canny_finds_the_border_of_a_square() -> None:
    image = np.zeros((40, 40), np.uint8)
    image[10:30, 10:30] = 255
    rows, columns = np.nonzero(Pipeline("canny 100 200")(image))
    assert len(rows) >= 76
    assert np.abs(np.maximum(np.abs(rows - 19.5), np.abs(columns - 19.5)) - 9.5).max() <= 1


def test_edge_mask_keeps_the_colours_of_edges() -> None:
    mask = Pipeline("box_blur 3 | canny 5 15")(PHOTO)
    assert 0 < np.count_nonzero(mask) < mask.size
    made = Pipeline("edge_mask")(PHOTO)
    np.testing.assert_array_equal(made[mask > 0], PHOTO[mask > 0])
    assert not made[mask == 0].any()
