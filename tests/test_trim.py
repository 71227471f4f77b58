"""`trim` against Pillow and libvips, and what is planned after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from imageloom import Pipeline, process
from imageloom.bench.samples import draw_photo
from imageloom.errors import OperatorRefused
from imageloom.model import Box, Frame, Header, Job, Output, Pixels, Recipe
from imageloom.operators import checked
from imageloom.recipes.parting import why_tiled, why_whole
from imageloom.recipes.plan import make_plan

PHOTO = np.maximum(draw_photo(3, 60, 40), 60)


def framed(box: Box, value: int = 20, noise: int = 0) -> Pixels:
    """The photo on a background of one colour, with noise."""
    image = np.full((100, 120, 3), value, np.uint8)
    image += np.random.default_rng(1).integers(0, noise + 1, image.shape, np.uint8)
    image[box.y0 : box.y1, box.x0 : box.x1] = PHOTO[: box.height, : box.width]
    return image


PLACES = (Box(10, 20, 70, 60), Box(0, 0, 60, 40), Box(60, 60, 120, 100), Box(30, 30, 31, 31))


@pytest.mark.parametrize("box", PLACES)
def test_is_the_box_of_the_difference(box: Box) -> None:
    image = framed(box)
    if box.x0 == 0:
        image = framed(box)[::-1].copy()
    background = Image.new("RGB", (120, 100), tuple(image[0, 0].tolist()))
    found = ImageChops.difference(Image.fromarray(image), background).getbbox()
    assert found is not None
    np.testing.assert_array_equal(Pipeline("trim 0")(image), image[found[1] : found[3], found[0] : found[2]])


def test_is_that_of_libvips() -> None:
    pyvips = pytest.importorskip("pyvips")
    for box in PLACES[:1]:
        image = framed(box, noise=4)
        left, top, width, height = pyvips.Image.new_from_array(image).find_trim(
            threshold=10, background=image[0, 0].tolist(), line_art=True
        )
        np.testing.assert_array_equal(Pipeline("trim")(image), image[top : top + height, left : left + width])


def test_noise_is_within_the_tolerance() -> None:
    image = framed(PLACES[0], noise=6)
    assert Pipeline("trim 6")(image).shape == (40, 60, 3)
    assert Pipeline("trim 0")(image).shape[0] > 90
    deep = image.astype(np.uint16) * 257
    assert Pipeline("trim 6")(deep).shape == (40, 60, 3)
    assert Pipeline("trim 6")((image / 255).astype(np.float32)).shape == (40, 60, 3)


def test_of_a_transparent_border_only_the_alpha_counts() -> None:
    noise = np.random.default_rng(2).integers(0, 256, (50, 70, 4), np.uint8)
    noise[..., 3] = 0
    noise[5:25, 7:37, 3] = 255
    np.testing.assert_array_equal(Pipeline("trim")(noise), noise[5:25, 7:37])


def test_a_given_color_and_an_image_of_one_colour() -> None:
    image = framed(PLACES[0], 255)
    image[0, 0] = 0
    assert Pipeline("trim color=#ffffff")(image).shape == (60, 70, 3)
    plain = np.full((5, 6), 7, np.uint8)
    np.testing.assert_array_equal(Pipeline("trim")(plain), plain)
    assert Pipeline("trim")(plain[:1, :1]).shape == (1, 1)


def test_what_follows_has_the_size_that_is_left() -> None:
    image = framed(PLACES[0])
    for text, size in (
        ("resize 50%", (20, 30)),
        ("resize 30x", (20, 30)),
        ("pad 70x70", (70, 70)),
        ("crop 20x10", (10, 20)),
        ("resize 64x64 fit=pad", (64, 64)),
        ("crop 20x20 at=attention", (20, 20)),
    ):
        made = Pipeline(f"trim 0 | {text}")(image)
        assert made.shape[:2] == size, text
        np.testing.assert_array_equal(made, Pipeline(text)(image[20:60, 10:70].copy()))
    with pytest.raises(OperatorRefused, match="100x90 reaches beyond the image of 60x40"):
        Pipeline("trim 0 | crop 100x90")(image)


def test_it_is_never_done_in_tiles_and_the_plan_says_why() -> None:
    recipe = Recipe((Output(Pipeline("trim | resize 50%").steps),))
    header = Header("png", Frame(9000, 9000, 3))
    job = Job("in", "out", recipe, tile="always")
    plan = make_plan(header, recipe)
    assert why_tiled(job, header, plan, plan.bytes, 1 << 20, 8, alone=True) is None
    assert why_whole(job, plan) == "the size after trim is known only when the pixels are"


def test_the_limit_of_pixels_holds_for_what_is_left() -> None:
    (step,) = Pipeline("resize 4000x")
    with pytest.raises(Exception, match=r"over the limit of 1,000,000 \(--max-pixels\)"):
        checked(step, np.zeros((500, 1), np.uint8), 0, 1_000_000)


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_a_shops_recipe(tmp_path: Path, engine: str) -> None:
    """Trim, pad to a square, white balance: sizes and metadata are those of the pixels."""
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA002] = 120
    for number, box in enumerate(PLACES):
        Image.fromarray(framed(box)).save(tmp_path / "in" / f"{number}.png", exif=exif)
    text = "trim 4 | resize 64x64 fit=pad background=#ffffff | white_balance"
    process(text, tmp_path / "in", tmp_path / "out", engine=engine, jobs=2, tile="always")
    for number, box in enumerate(PLACES):
        with Image.open(tmp_path / "out" / f"{number}.png") as made:
            np.testing.assert_array_equal(np.asarray(made), Pipeline(text)(framed(box)))
    process("trim 0", tmp_path / "in", tmp_path / "small", engine=engine, jobs=2)
    with Image.open(tmp_path / "small" / "0.png") as made:
        assert made.size == (60, 40)
        assert made.getexif().get_ifd(0x8769).get(0xA002, 60) == 60
