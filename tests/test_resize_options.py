"""The options of `resize`, and light=linear, against Pillow, libvips and formulas."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from imageloom import Pipeline
from imageloom.bench.samples import draw_photo
from imageloom.errors import PipelineError
from imageloom.model import Frame, Header, Output, Pixels, Recipe
from imageloom.operators.light import in_linear_light
from imageloom.recipes.plan import make_plan
from imageloom.recipes.rewrite import rewrite

PHOTO = draw_photo(2, 160, 120)


def close(made: Pixels, other: Pixels, levels: int = 2) -> None:
    """At most so many levels apart, on 99.9% of the values."""
    assert made.shape == other.shape
    assert (np.abs(made.astype(int) - other.astype(int)) <= levels).mean() >= 0.999


@pytest.mark.parametrize("size", [(53, 40), (160, 33), (250, 301), (7, 5), (1, 1)])
class TestKernels:
    def test_lanczos3_is_that_of_pillow(self, size: tuple[int, int]) -> None:
        theirs = np.asarray(Image.fromarray(PHOTO).resize(size, Image.Resampling.LANCZOS))
        close(Pipeline(f"resize {size[0]}x{size[1]} kernel=lanczos3")(PHOTO), theirs)

    def test_mitchell_is_that_of_libvips(self, size: tuple[int, int]) -> None:
        pyvips = pytest.importorskip("pyvips")
        if max(size) > 160 or min(size) < 8:
            pytest.skip("`reduce` only reduces, and too few pixels are far from the edges")
        image = pyvips.Image.new_from_array(PHOTO.astype(np.float32))
        reduced = image.reduce(160 / size[0], 120 / size[1], kernel="mitchell")
        theirs = np.rint(np.clip(reduced.numpy(), 0, 255)).astype(np.uint8)
        made = Pipeline(f"resize {size[0]}x{size[1]} kernel=mitchell")(PHOTO)
        close(made[2:-2, 2:-2], theirs[2:-2, 2:-2])  # libvips repeats the edge pixels


def test_alpha_and_16_bits_are_resized_by_the_same_kernel() -> None:
    deep = PHOTO.astype(np.uint16) * 257
    shallow = Pipeline("resize 53x40 kernel=lanczos3")(PHOTO)
    close(Pipeline("resize 53x40 kernel=lanczos3")(deep) // 257, shallow, 1)
    opaque = np.dstack((PHOTO, np.full(PHOTO.shape[:2], 255, np.uint8)))
    made = Pipeline("resize 53x40 kernel=mitchell")(opaque)
    close(made[..., :3], Pipeline("resize 53x40 kernel=mitchell")(PHOTO), 1)
    assert (made[..., 3] == 255).all()


class TestFits:
    @pytest.mark.parametrize(
        ("options", "size"),
        [
            ("80x80 fit=pad", (80, 80)),
            ("300x200 fit=pad", (300, 200)),
            ("80x80 fit=max", (80, 60)),
            ("400x400 fit=max", (160, 120)),
            ("80x80 fit=min", (107, 80)),
            ("400x400 fit=min", (533, 400)),
            ("400x400 fit=min enlarge=false", (160, 120)),
            ("1x1000 fit=max", (1, 1)),
            ("0.001%", (1, 1)),
            ("1x", (1, 1)),
            ("1x1 fit=inside", (1, 1)),
        ],
    )
    def test_sizes(self, options: str, size: tuple[int, int]) -> None:
        pipeline = Pipeline(f"resize {options}")
        (after,) = pipeline.frames(Frame.of(PHOTO))[1:]
        assert (after.width, after.height) == size
        made = pipeline(PHOTO)
        assert made.shape == (size[1], size[0], 3)
        np.testing.assert_array_equal(made, Pipeline(rewrite(pipeline.steps, Frame.of(PHOTO)))(PHOTO))

    def test_pad_centres_on_the_background(self) -> None:
        made = Pipeline("resize 80x80 fit=pad background=#ff0000")(PHOTO)
        np.testing.assert_array_equal(made[10:70], Pipeline("resize 80x60")(PHOTO))
        assert (made[:10] == (255, 0, 0)).all()
        assert (made[70:] == (255, 0, 0)).all()

    def test_pad_may_be_transparent(self) -> None:
        opaque = np.dstack((PHOTO, np.full(PHOTO.shape[:2], 255, np.uint8)))
        made = Pipeline("resize 80x80 fit=pad background=#00ff0000")(opaque)
        assert (made[:10] == (0, 255, 0, 0)).all()
        assert (made[10:70, :, 3] == 255).all()

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("resize 80x80 background=#ffffff", "background is the color of fit=pad, and fit is exact"),
            ("resize 50% fit=pad", "fit=pad needs a size of WIDTHxHEIGHT"),
            ("resize 0x5 fit=pad", "must not be zero"),
            ("resize 80x80 fit=pad background=red", "background"),
            ("resize 80x80 kernel=lanczos9", "kernel"),
        ],
    )
    def test_mistakes_are_named(self, text: str, said: str) -> None:
        with pytest.raises(PipelineError, match=said):
            Pipeline(text)


def light_of(values: Pixels) -> Pixels:
    """sRGB's curve (IEC 61966-2-1), in float64."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def values_of(light: Pixels) -> Pixels:
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)


class TestLinearLight:
    @pytest.mark.parametrize(("dtype", "top"), [("uint8", 255), ("uint16", 65535), ("float32", 1)])
    def test_of_black_and_white_half_the_light_is_left(self, dtype: str, top: int) -> None:
        stripes = np.zeros((16, 16), dtype)
        stripes[::2] = top
        for text in ("resize 8x8 light=linear", "box_blur 3 light=linear | resize 8x8 light=linear"):
            made = Pipeline(text)(stripes)[2:-2, 2:-2] / top
            assert np.abs(made - 0.7354).max() < 0.003, text

    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    def test_there_and_back_changes_nothing(self, dtype: str) -> None:
        levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(16, -1)
        np.testing.assert_array_equal(in_linear_light(lambda image: image, levels), levels)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_mean_is_that_of_the_light(self, channels: int) -> None:
        photo = PHOTO if channels == 3 else PHOTO[..., 0].copy()
        light = light_of(photo / 255)
        means = light.reshape(60, 2, 80, 2, -1).mean(axis=(1, 3)).reshape(60, 80, *photo.shape[2:])
        close(
            Pipeline("resize 80x60 light=linear")(photo), np.rint(values_of(means) * 255).astype(np.uint8), 1
        )

    @pytest.mark.parametrize(
        "text", ["gaussian_blur 2", "box_blur 5", "motion_blur 7 angle=30", "resize 80x60"]
    )
    def test_a_blur_is_that_of_floats_in_light(self, text: str) -> None:
        light = Pipeline(text)(light_of(PHOTO / 255).astype(np.float32))
        made = Pipeline(f"{text} light=linear")(PHOTO)
        close(made, np.rint(values_of(light.astype(np.float64)) * 255).astype(np.uint8), 1)

    def test_transparent_pixels_do_not_bleed(self) -> None:
        image = np.dstack((PHOTO, np.zeros(PHOTO.shape[:2], np.uint8)))
        image[:60, :, 3] = 255
        other = image.copy()
        other[60:, :, :3] = 255
        for text in ("resize 40x30 light=linear", "gaussian_blur 3 light=linear"):
            np.testing.assert_array_equal(Pipeline(text)(image), Pipeline(text)(other))

    def test_a_jpeg_is_not_shrunk_in_encoded_light_before(self) -> None:
        header = Header("jpeg", Frame(1600, 1200, 3), scalable=True)

        def scale(text: str) -> int:
            return make_plan(header, Recipe((Output(Pipeline(text).steps),))).scale

        assert scale("resize 100x75") > 1
        assert scale("resize 100x75 light=linear") == 1
