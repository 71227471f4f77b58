"""`crop` at what is interesting, against libvips' smartcrop."""

from __future__ import annotations

import numpy as np
import pytest

from imageloom import Pipeline, operators
from imageloom.bench.samples import draw_photo
from imageloom.errors import OperatorRefused, PipelineError
from imageloom.model import Box, Frame, Header, Output, Pixels, Recipe, Tile
from imageloom.operators.interest import CELLS
from imageloom.recipes.plan import make_plan
from imageloom.recipes.rewrite import rewrite
from imageloom.tiling import tiles


def scene(x: int, y: int, width: int = 320, height: int = 240) -> Pixels:
    """A smooth gray wall with a patterned, skin coloured patch of 60 x 60 pixels at x, y."""
    wall = np.full((height, width, 3), 120, np.uint8)
    patch = np.full((60, 60, 3), (210, 150, 120), np.uint8)
    patch[::7, ::3] = (90, 20, 30)
    wall[y : y + 60, x : x + 60] = patch
    return wall


def overlap(one: Box, other: Box) -> float:
    """The intersection of two boxes over their union."""
    common = one.within(other)
    inside = max(0, common.x1 - common.x0) * max(0, common.y1 - common.y0)
    return inside / (one.width * one.height + other.width * other.height - inside)


def place(image: Pixels, text: str) -> Box:
    """Where a crop lies, by the pixels that it has."""
    numbers = np.arange(image.shape[0] * image.shape[1]).reshape(image.shape[:2])
    step = Pipeline(text).steps[0]
    (first,) = operators.get("crop").tiled_as(Frame.of(image), **operators.get("crop").filled(step))  # type: ignore[misc]
    measured = operators.get(first.name).measured
    assert measured is not None
    box = Box(0, 0, image.shape[1], image.shape[0])
    params = operators.get(first.name).filled(first)
    (crop,) = measured.steps(measured.of(image, box, params), [box], params)
    cut = Pipeline([crop])(numbers.astype(np.float32)).astype(int)
    top, left = divmod(int(cut[0, 0]), image.shape[1])
    return Box(left, top, left + cut.shape[1], top + cut.shape[0])


@pytest.mark.parametrize("at", ["attention", "entropy"])
@pytest.mark.parametrize(("x", "y"), [(0, 0), (260, 180), (130, 20), (20, 150)])
def test_finds_what_libvips_finds(at: str, x: int, y: int) -> None:
    pyvips = pytest.importorskip("pyvips")
    image = scene(x, y)
    found = place(image, f"crop 100x100 at={at}")
    theirs = pyvips.Image.new_from_array(image, interpretation="srgb").smartcrop(100, 100, interesting=at)
    left, top = -theirs.xoffset, -theirs.yoffset
    # The patch is flat for attention: the highest score is anywhere in it.
    assert overlap(found, Box(left, top, left + 100, top + 100)) >= (0.4 if at == "attention" else 0.7)
    assert overlap(found, Box(x, y, x + 60, y + 60)) >= 0.3
    np.testing.assert_array_equal(
        Pipeline(f"crop 100x100 at={at}")(image), image[found.slices(Box(0, 0, 320, 240))]
    )


@pytest.mark.parametrize("at", ["attention", "entropy"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_tiles_measure_what_the_whole_does(at: str, dtype: str, channels: int) -> None:
    photo = draw_photo(4, 203, 151)
    image = np.dstack((photo, photo[..., 0]))[..., :channels] if channels != 2 else photo[..., :2].copy()
    scale = {"uint8": 1, "uint16": 257, "float32": 1 / np.float32(255)}[dtype]
    image = np.ascontiguousarray(np.squeeze((image.astype(float) * scale).astype(dtype)))
    steps = Pipeline(f"crop 64x48 at={at} | invert").steps
    whole = Pipeline(steps)(image)
    for size in (16, 61, 150):
        np.testing.assert_array_equal(tiles.run_tiled(image, steps, size), whole)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2), (CELLS, CELLS - 1), (7, 300)])
def test_images_with_fewer_pixels_than_cells(width: int, height: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    for at in ("attention", "entropy"):
        assert Pipeline(f"crop 1x1 at={at}")(image).shape == (1, 1, 3)
        np.testing.assert_array_equal(Pipeline(f"crop {width}x{height} at={at}")(image), image)


def test_it_is_not_moved_or_merged_by_rewrites() -> None:
    photo = draw_photo(4, 203, 151)
    for text in (
        "brightness 40 | crop 64x48 at=attention",
        "crop 150x100+10+10 | crop 64x48 at=entropy",
        "crop 150x100 at=attention | crop 64x48",
        "crop 64x48 at=attention | grayscale",
    ):
        steps = Pipeline(text).steps
        np.testing.assert_array_equal(
            Pipeline(rewrite(steps, Frame.of(photo)))(photo), Pipeline(steps)(photo), err_msg=text
        )
    header = Header("jpeg", Frame(203, 151, 3), scalable=True)
    assert not make_plan(
        header, Recipe((Output(Pipeline("crop 64x48 at=attention | grayscale").steps),))
    ).luma
    assert make_plan(header, Recipe((Output(Pipeline("crop 64x48 | grayscale").steps),))).luma


def test_mistakes_are_named() -> None:
    with pytest.raises(PipelineError, match="at=attention finds the place of WIDTHxHEIGHT"):
        Pipeline("crop 10x10+1+1 at=attention")
    with pytest.raises(PipelineError, match="crop: at"):
        Pipeline("crop 10x10 at=faces")
    with pytest.raises(OperatorRefused, match="reaches beyond"):
        Pipeline("crop 1000x10 at=entropy")(draw_photo(4, 203, 151))


def test_a_false_measure_is_refused() -> None:
    (phase, _) = tiles.phases(Pipeline("crop 64x48 at=attention").steps, Frame(203, 151, 3))
    box = Box(0, 0, 60, 151)
    tile = Tile(box, box)
    measured = tiles.measure_tile(phase, draw_photo(4, 60, 151), tile)
    assert tiles.is_measure(phase, tiles.pack(phase, measured), box)
    for wrong in (measured * 2, -measured, measured[1:], measured.astype(np.int32), measured.astype(float)):
        assert not tiles.is_measure(phase, tiles.pack(phase, wrong), box)
