"""Borders, colours and smoothing against Pillow, resvg, libvips, and written-out formulas."""

from __future__ import annotations

import base64
import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from imageloom import Pipeline
from imageloom.bench.samples import draw_photo
from imageloom.errors import PipelineError
from imageloom.model import Pixels

PHOTO = draw_photo(1, 61, 47)


def close(made: Pixels, other: Pixels, levels: int = 2) -> None:
    """At most so many levels apart, on 99.9% of the values."""
    assert made.shape == other.shape
    assert (np.abs(made.astype(int) - other.astype(int)) <= levels).mean() >= 0.999


class TestBorder:
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
    def test_is_that_of_pillow(self, mode: str) -> None:
        image = Image.fromarray(PHOTO).convert(mode)
        expanded = ImageOps.expand(image, (5, 3, 5, 3), fill="#4080c0")
        made = Pipeline("border 5x3 color=#4080c0")(np.asarray(image))
        close(made, np.asarray(expanded), 1)

    def test_a_width_in_percent_is_of_the_shorter_side(self) -> None:
        assert Pipeline("border 10%")(PHOTO).shape == (47 + 10, 61 + 10, 3)

    def test_of_nothing_changes_nothing(self) -> None:
        np.testing.assert_array_equal(Pipeline("border 0")(PHOTO), PHOTO)

    @pytest.mark.parametrize("width", ["-1", "100000", "5x", "1000%", "x", "5px"])
    def test_a_wrong_width_is_named(self, width: str) -> None:
        with pytest.raises(PipelineError, match="border: width"):
            Pipeline(f"border {width}")


class TestHue:
    @pytest.mark.parametrize("degrees", [30, 90, 180, -45, 360])
    def test_is_that_of_an_svg_filter(self, degrees: int) -> None:
        resvg = pytest.importorskip("resvg_py")
        encoded = io.BytesIO()
        Image.fromarray(PHOTO).save(encoded, "PNG")
        image = base64.b64encode(encoded.getvalue()).decode()
        drawn = resvg.svg_to_bytes(
            svg_string='<svg xmlns="http://www.w3.org/2000/svg" width="61" height="47"><filter id="f" x="0" y="0" '
            'width="1" height="1" color-interpolation-filters="sRGB"><feColorMatrix type="hueRotate" '
            f'values="{degrees}"/></filter><image width="61" height="47" filter="url(#f)" '
            f'image-rendering="optimizeSpeed" href="data:image/png;base64,{image}"/></svg>'
        )
        theirs = np.asarray(Image.open(io.BytesIO(bytes(drawn))).convert("RGB"))
        close(Pipeline(f"hue {degrees}")(PHOTO), theirs)

    def test_gray_has_none(self) -> None:
        gray = PHOTO[..., :1].repeat(3, axis=2)
        close(Pipeline("hue 77")(gray), gray, 1)


class TestWhiteBalance:
    def test_a_cast_is_removed(self) -> None:
        """A neutral ramp under a warm lamp is neutral again."""
        ramp = np.tile(np.arange(40, 201, dtype=np.float64)[:, None], (1, 30))
        cast = np.rint(np.dstack((ramp * 1.2, ramp, ramp * 0.7))).astype(np.uint8)
        for text in ("white_balance", "white_balance white cutoff=0"):
            made = Pipeline(text)(cast).astype(int)
            assert np.abs(made[..., 0] - made[..., 2]).max() <= 2, text

    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    def test_means_are_those_of_libvips(self, dtype: str) -> None:
        pyvips = pytest.importorskip("pyvips")
        photo = PHOTO.astype(dtype) * (257 if dtype == "uint16" else 1)
        top = np.iinfo(photo.dtype).max
        image = pyvips.Image.new_from_array(photo)
        means = []
        for band in image.bandsplit():
            inside = ((band > 0) & (band < top)) / 255
            means.append((band * inside).avg() / inside.avg())
        factors = [sum(means) / 3 / mean for mean in means]
        theirs = (image * factors).rint().cast("uchar" if dtype == "uint8" else "ushort").numpy()
        close(Pipeline("white_balance")(photo), theirs, 1)

    def test_black_white_and_gray_stay(self) -> None:
        for value in (0, 255):
            flat = np.full((4, 5, 3), value, np.uint8)
            np.testing.assert_array_equal(Pipeline("white_balance")(flat), flat)
        np.testing.assert_array_equal(Pipeline("white_balance white")(PHOTO[..., 0]), PHOTO[..., 0])


class TestPixelate:
    @pytest.mark.parametrize("size", [2, 5, 16, 100])
    def test_is_pillows_reduction_enlarged_again(self, size: int) -> None:
        reduced = np.asarray(Image.fromarray(PHOTO).reduce(size))
        theirs = reduced.repeat(size, axis=0).repeat(size, axis=1)[:47, :61]
        close(Pipeline(f"pixelate {size}")(PHOTO), theirs, 1)

    def test_of_one_changes_nothing(self) -> None:
        np.testing.assert_array_equal(Pipeline("pixelate 1")(PHOTO), PHOTO)


def non_local_means(image: Pixels, strength: float, patch: int, search: int) -> Pixels:
    """The formula of Buades, Coll and Morel with a flat patch, one pixel of the image at a time."""
    around, half, reach = search // 2 + patch // 2, patch // 2, search // 2
    values = image.astype(np.float64).reshape(*image.shape[:2], -1)
    padded = np.pad(values, ((around, around), (around, around), (0, 0)), mode="reflect")
    made = np.empty_like(values)

    def patch_at(y: int, x: int) -> Pixels:
        return padded[y - half : y + half + 1, x - half : x + half + 1]

    for y, x in np.ndindex(values.shape[:2]):
        total, weights = np.zeros(values.shape[2]), 0.0
        own = patch_at(y + around, x + around)
        for down, across in np.ndindex(search, search):
            other = patch_at(y + around + down - reach, x + around + across - reach)
            weight = np.exp(-((own - other) ** 2).mean() / strength**2)
            total += weight * other[half, half]
            weights += weight
        made[y, x] = total / weights
    return np.rint(made).astype(image.dtype).reshape(image.shape)


class TestDenoise:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_is_the_formula(self, channels: int) -> None:
        random = np.random.default_rng(5)
        photo = cv2.resize(PHOTO, (20, 16), interpolation=cv2.INTER_AREA)
        noisy = np.clip(photo + random.normal(0, 8, photo.shape), 0, 255).astype(np.uint8)
        noisy = noisy if channels == 3 else noisy[..., 0].copy()
        close(Pipeline("denoise 12 patch=3 search=7")(noisy), non_local_means(noisy, 12, 3, 7))

    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    def test_noise_is_less_and_the_photo_is_there(self, dtype: str) -> None:
        scale = 257 if dtype == "uint16" else 1
        photo = draw_photo(1, 96, 80).astype(np.float64)
        noisy = np.clip(photo + np.random.default_rng(5).normal(0, 10, photo.shape), 0, 255)
        made = Pipeline("denoise 14")(np.rint(noisy * scale).astype(dtype)) / scale
        assert np.abs(made - photo).mean() < 0.75 * np.abs(noisy - photo).mean()
