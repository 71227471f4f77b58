"""Geometry against NumPy's own."""

from typing import Any

import numpy as np
import pytest

from imageloom import Pipeline
from imageloom.bench.samples import draw_photo
from imageloom.errors import OperatorRefused, PipelineError
from imageloom.model import Frame, Header, Output, Pixels, Recipe
from imageloom.recipes.plan import make_plan

PHOTO = draw_photo(4, 23, 19)
RGBA = np.dstack((PHOTO, PHOTO[..., 0]))


@pytest.mark.parametrize("image", [PHOTO, PHOTO[..., 0].copy(), RGBA, RGBA.astype(np.uint16) * 257])
def test_moving_pixels(image: Pixels) -> None:
    for text, moved in (
        ("flip", image[:, ::-1]),
        ("flip vertical", image[::-1]),
        ("rotate 90", np.rot90(image, -1)),
        ("rotate 180", np.rot90(image, 2)),
        ("rotate 270", np.rot90(image)),
        ("crop 7x5", image[7:12, 8:15]),
        ("crop 7x5+1+2", image[2:7, 1:8]),
        ("auto_orient", image),
    ):
        np.testing.assert_array_equal(Pipeline(text)(image), moved)


@pytest.mark.parametrize(("fill", "mode"), [("color", "constant"), ("edge", "edge"), ("mirror", "reflect")])
@pytest.mark.parametrize("image", [PHOTO, PHOTO[..., 0].copy(), (PHOTO / 255).astype(np.float32)])
def test_pad_is_that_of_numpy(fill: str, mode: Any, image: Pixels) -> None:
    for area, left, top, right, bottom in (
        ("8", 8, 8, 8, 8),
        ("30x40", 3, 10, 4, 11),
        ("30x40+7+0", 7, 0, 0, 21),
        ("23x19", 0, 0, 0, 0),
    ):
        widths = [(top, bottom), (left, right), (0, 0)][: image.ndim]
        made = Pipeline([{"pad": {"area": int(area) if area.isdigit() else area, "fill": fill}}])(image)
        np.testing.assert_array_equal(made, np.pad(image, widths, mode=mode))


@pytest.mark.parametrize(
    ("image", "color", "pixel"),
    [
        (PHOTO, "#ff8000", [255, 128, 0]),
        (RGBA, "#ff8000", [255, 128, 0, 255]),
        (RGBA, "#ff800040", [255, 128, 0, 64]),
        (PHOTO[..., 0].copy(), "#ff8000", [151]),
        (RGBA[..., 2:].copy(), "#ffffff00", [255, 0]),
        (RGBA.astype(np.uint16) * 257, "#ff800040", [65535, 32896, 0, 16448]),
        ((PHOTO / 255).astype(np.float32), "#ff0033", [1, 0, 0.2]),
    ],
)
def test_pad_has_the_color_that_was_asked_for(image: Pixels, color: str, pixel: list[float]) -> None:
    assert np.atleast_1d(Pipeline(f"pad 2 '{color}'")(image)[0, 0]).tolist() == pytest.approx(pixel)


def test_pad_refuses_what_does_not_hold_the_image() -> None:
    with pytest.raises(OperatorRefused, match="pad: 20x40 does not contain the image of 23x19"):
        Pipeline("pad 20x40")(PHOTO)
    with pytest.raises(OperatorRefused, match=r"pad: 30x40\+10\+0 does not contain"):
        Pipeline("pad 30x40+10+0")(PHOTO)
    with pytest.raises(PipelineError, match="pad: color = 'red'"):
        Pipeline("pad 3 red")


def test_auto_orient_does_not_stand_in_the_way_of_the_codec() -> None:
    header = Header("jpeg", Frame(4000, 3000, 3), orientation=6, scalable=True)
    with_it, without = (
        make_plan(header, Recipe((Output(Pipeline(text).steps),)))
        for text in ("auto_orient | resize 512x512 | grayscale", "resize 512x512 | grayscale")
    )
    assert with_it == without
    assert with_it.scale > 1
