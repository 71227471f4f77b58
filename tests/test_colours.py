"""Colours: what files state, what outputs state, and the conversion to sRGB."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image, ImageCms

from imageloom import Pixels, Recipe, codecs, colours
from imageloom.codecs.metadata import Metadata, Primaries
from imageloom.colours import convert
from imageloom.colours.bound import bound
from imageloom.errors import UnsupportedImage
from imageloom.model import Encoding, Frame, Header, Output
from imageloom.recipes.pipeline import Pipeline
from imageloom.recipes.plan import explain, make_plan
from inks import table_profile
from program import Run

P3 = colours.built("cicp 12 13", False)
ADOBE = colours.built(colours.ADOBE_RGB, False)
GRAY_18 = colours.built("gamma 55556", True)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
_RELATIVE = ImageCms.Intent.RELATIVE_COLORIMETRIC
RED = (200, 30, 40)
P3_RED_IN_SRGB = (218, 0, 27)
"""`cctiff -p -ir DisplayP3.icm -ir sRGB.icm` of ArgyllCMS 2.3.1 gives this for `RED`."""


def picture(colour: tuple[int, ...] = RED, size: int = 64) -> Pixels:
    image = np.empty((size, size, 3), np.uint8)
    image[:] = colour
    image[:8] = (90, 120, 60)
    return image


def saved(path: Path, image: Pixels, **options: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def made(path: Path, tmp_path: Path, pipeline: str = "auto_orient", **options: Any) -> Path:
    """The only output of a run over one file."""
    out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
    run = Run(pipeline, path, out, **{"engine": "serial", **options})
    assert run.summary.failed == 0, run.events
    (output,) = [each for each in out.rglob("*") if each.is_file()]
    return output


def near(found: Any, wanted: tuple[int, ...], by: int = 2) -> bool:
    return bool(np.abs(np.asarray(found).astype(int) - np.array(wanted)).max() <= by)


def opened(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def pixel(path: Path) -> Any:
    return np.asarray(opened(path).convert("RGB"))[40, 40]


OPTIONS: dict[str, dict[str, Any]] = {
    "png": {},
    "jpeg": {"quality": 98, "subsampling": 0},
    "webp": {"lossless": True},
    "tiff": {},
    "avif": {"quality": 95},
}


@pytest.mark.parametrize("tile", ["never", "always"])
@pytest.mark.parametrize("format", OPTIONS)
def test_stripping_a_profile_converts_first(format: str, tile: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "in" / f"a.{format}", picture(), icc_profile=P3, **OPTIONS[format])
    output = made(path, tmp_path, metadata="strip", format="png", tile=tile)
    assert near(pixel(output), P3_RED_IN_SRGB, 4)
    assert "icc_profile" not in opened(output).info


@pytest.mark.parametrize("format", OPTIONS)
def test_a_profile_that_can_be_kept_leaves_the_pixels(format: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "in" / "a.png", picture(), icc_profile=P3)
    output = made(path, tmp_path, format=format, quality=95)
    assert near(pixel(output), RED, 4)
    assert opened(output).info["icc_profile"] == P3


@pytest.mark.parametrize("format", ["bmp", "pnm"])
def test_a_format_without_profiles_gets_srgb_and_nothing_is_lost(format: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "in" / "a.png", picture(), icc_profile=P3)
    run = Run("auto_orient", path, tmp_path / "out", engine="serial", format=format)
    (output,) = (tmp_path / "out").iterdir()
    assert near(pixel(output), P3_RED_IN_SRGB)
    assert run.summary.dropped == {}


def test_all_engines_and_tiles_give_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = saved(tmp_path / "in" / "a.png", rng.integers(0, 256, (300, 500, 3), np.uint8), icc_profile=ADOBE)
    found = {
        (engine, tile): made(
            path, tmp_path, "gaussian_blur 2 | to_srgb", engine=engine, tile=tile, jobs=2
        ).read_bytes()
        for engine in ("threads", "processes", "pipeline")
        for tile in ("never", "always")
    }
    assert len(set(found.values())) == 1


def test_the_conversion_comes_before_grayscale_and_luma_is_not_decoded_alone() -> None:
    header = Header("jpeg", Frame(800, 600, 3), scalable=True, colours="cicp 12 13")
    recipe = Recipe((Output(Pipeline.parse("resize 100x100 | grayscale").steps),))
    plan = make_plan(header, recipe)
    assert plan.luma  # the output has a profile of gray
    assert plan.outputs[0].target.profile[16:20] == b"GRAY"
    plan = make_plan(replace(header, colours=colours.of_profile(P3, 3)), recipe)
    assert (plan.luma, plan.scale) == (False, 2)
    assert [step.name for step in plan.outputs[0].steps] == ["resize", "convert_from", "grayscale"]
    told = explain(replace(header, colours=colours.of_profile(P3, 3)), recipe, 1)
    assert any(line.startswith("colours") and "converted to sRGB after resize" in line for line in told)


def test_files_in_srgb_cost_no_step() -> None:
    assert colours.of_profile(SRGB, 3) == ""
    steps = Pipeline.parse("to_srgb | resize 50%").steps
    plan = make_plan(Header("jpeg", Frame(800, 600, 3)), Recipe((Output(steps),), metadata="strip"))
    assert [step.name for step in plan.outputs[0].steps] == ["resize"]


def test_gray_keeps_its_kind_and_gets_the_curve_of_srgb(tmp_path: Path) -> None:
    gray = np.arange(256, dtype=np.uint8).repeat(16).reshape(64, 64)
    path = saved(tmp_path / "in" / "a.png", gray, icc_profile=GRAY_18)
    image = np.asarray(opened(made(path, tmp_path, colors="srgb")))
    light = (np.arange(256) / 255) ** 1.8
    wanted = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    assert image.ndim == 2
    assert np.abs(image.reshape(256, 16)[:, 0] - wanted).max() <= 0.51


def test_16_bits_alpha_and_floats_are_converted() -> None:
    deep = np.array([[[v * 257 for v in RED]]], np.uint16)
    found = convert.to_srgb(deep, "cicp 12 13")
    assert near(found[0, 0] / 257, P3_RED_IN_SRGB, 1)
    floats = convert.to_srgb((deep / 65535).astype(np.float32), "cicp 12 13")
    assert np.abs(floats - found / 65535).max() < 2e-5


def test_exif_states_adobe_rgb(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 0xFFFF
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    path = saved(tmp_path / "in" / "a.jpg", picture(), exif=exif, quality=98, subsampling=0)
    assert codecs.header_of(path.read_bytes()).colours == colours.ADOBE_RGB
    kept = made(path, tmp_path, quality=98, subsampling="444")
    assert near(pixel(kept), RED, 4)
    assert opened(kept).getexif().get_ifd(0x8769)[0xA001] == 0xFFFF
    assert opened(made(path, tmp_path, format="png")).info["icc_profile"] == ADOBE
    output = made(path, tmp_path, "to_srgb", quality=98, subsampling="444")
    assert near(pixel(output), (233, 24, 36), 4)
    converted = opened(output).getexif().get_ifd(0x8769)
    assert converted[0xA001] == 1
    assert b"R98" in output.read_bytes()
    assert b"R03" not in output.read_bytes()


def test_gamma_and_chromaticities_become_a_profile_or_are_converted(tmp_path: Path) -> None:
    stated = Primaries(gamma=100_000, chromaticities=(31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
    path = tmp_path / "a.png"
    path.write_bytes(codecs.get("png").encode(picture((180, 60, 60)), Encoding(), Metadata(colours=stated)))
    output = made(path, tmp_path, format="jpeg", quality=98)
    icc = opened(output).info["icc_profile"]
    shown = ImageCms.profileToProfile(
        opened(output), ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB"), _RELATIVE
    )
    converted = pixel(made(path, tmp_path, format="bmp"))
    assert near(np.asarray(shown)[40, 40], tuple(map(int, converted)), 3)
    assert near(converted, (230, 130, 133), 4)


def test_hdr_is_refused_by_name_where_it_cannot_be_said() -> None:
    header = Header("png", Frame(80, 60, 3, "uint16"), colours="cicp 9 16")
    kept = make_plan(header, Recipe((Output(Pipeline.parse("resize 50%").steps),)))
    assert [step.name for step in kept.outputs[0].steps] == ["resize"]
    refused = (
        Recipe((Output((), format="tiff"),)),
        Recipe((Output(()),), metadata="strip"),
        Recipe((Output(Pipeline.parse("to_srgb").steps),)),
        Recipe(
            (
                Output(
                    (),
                ),
            ),
            colors="srgb",
        ),
    )
    for recipe in refused:
        with pytest.raises(UnsupportedImage, match=r"HDR \(PQ\).*--format png"):
            make_plan(header, recipe)


@pytest.mark.parametrize("icc", [b"", b"x" * 200, P3[:300], P3[:132] + b"\xff" * 300])
def test_damaged_profiles_are_no_colours(icc: bytes) -> None:
    assert colours.of_profile(icc, 3) == ""


SAMPLES = [(200, 30, 40), (30, 200, 40), (128, 128, 128), (250, 220, 190), (10, 20, 30), (90, 120, 60)]
ARGYLL: dict[str, list[tuple[float, ...]]] = {
    "cicp 12 13": [
        (218.5, 0, 27), (0, 203.6, 0), (128, 128, 128), (255, 218.6, 185.9), (7, 20.3, 30.9), (81.3, 121.1, 50.8),
    ],
    "Adobe RGB": [
        (233.1, 23.8, 35.7), (0, 201.3, 0), (129, 129, 129), (255, 221, 190), (0, 12.1, 24.2), (72.5, 120.8, 52.6),
    ],
    "gamma 55556 34567 35850 73470 26530 15960 84040 3660 10": [
        (255, 0, 50.6), (0, 229.9, 0), (146.4, 146.4, 146.4),
        (255, 220.8, 197), (0, 28.4, 41.9), (89.9, 144.7, 60),
    ],
    "cicp 9 14": [
        (255, 0, 48.4), (0, 216.9, 0), (139.8, 139.8, 139.8),
        (255, 220.3, 192.5), (7.4, 36.9, 47), (84.1, 135.7, 65.4),
    ],
    "cicp 1 4": [(201.3,), (23.8,), (129,), (250.2,), (2.6,), (89.5,)],
    "gamma 55556": [(210.2,), (40,), (146.4,), (251,), (9.7,), (109.2,)],
}  # fmt: skip
"""What ArgyllCMS 2.3.1 gives for `SAMPLES` (for gray: their first values) in TIFF of 16 bits, divided by 257:
`cctiff -p -ir profile.icc -ir sRGB.icm`, with the profile that `built` makes. The third one is ProPhoto RGB."""


@pytest.mark.parametrize("stated", ARGYLL)
def test_results_are_those_of_argyllcms(stated: str) -> None:
    wanted = np.array(ARGYLL[stated])
    levels = np.array([SAMPLES if wanted.shape[1] == 3 else [each[0] for each in SAMPLES]], np.uint8)
    for image, by in ((levels, 1.0), (levels.astype(np.uint16) * 257, 0.15)):
        found = convert.to_srgb(image, stated).reshape(wanted.shape) / (
            257 if image.dtype == np.uint16 else 1
        )
        assert np.abs(found - wanted).max() <= by


def test_a_profile_of_other_colours_means_nothing() -> None:
    assert colours.of_profile(GRAY_18, 3) == ""
    assert colours.of_profile(P3, 1).startswith("profile RGB")


def test_a_bound_profile_is_that_of_the_thread_alone() -> None:
    stated = colours.of_profile(P3, 3)
    with bound(P3):
        assert near(convert.to_srgb(picture(), stated)[40, 40], P3_RED_IN_SRGB, 1)


INKS = {(0, 0, 0, 0): (255, 255, 255), (255, 0, 0, 0): (0, 255, 255), (0, 128, 255, 0): (255, 127, 0)}


def inks(size: int = 48) -> Image.Image:
    """Bands of inks."""
    image = np.empty((size, size, 4), np.uint8)
    for place, ink in enumerate(INKS):
        image[16 * place : 16 * place + 16] = ink
    return Image.fromarray(image, "CMYK")


@pytest.mark.parametrize("tile", ["never", "always"])
@pytest.mark.parametrize("profile", [False, True])
@pytest.mark.parametrize("format", ["jpeg", "tiff"])
def test_cmyk_becomes_srgb(format: str, profile: bool, tile: str, tmp_path: Path) -> None:
    icc = table_profile(b"CMYK") if profile else b""
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if format == "jpeg" else {}
    path = tmp_path / f"a.{format}"
    inks().save(path, icc_profile=icc or None, **options)
    run = Run("auto_orient", path, tmp_path / "out", engine="serial", format="png", tile=tile)
    assert run.summary.dropped == {"CMYK": 1}
    found = np.asarray(opened(tmp_path / "out" / "a.png"))[8::16, 24]
    if profile:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(icc)),
            ImageCms.createProfile("sRGB"),
            "CMYK",
            "RGB",
            _RELATIVE,
        )
        wanted = np.asarray(ImageCms.applyTransform(inks(), transform))[8::16, 24]
        assert np.abs(found.astype(int) - wanted).max() <= 4
    else:
        assert np.abs(found - np.array(list(INKS.values()))).max() <= 4


def test_ycck_is_read_as_pillow_reads_it(tmp_path: Path) -> None:
    data = bytearray()
    with io.BytesIO() as file:
        inks().save(file, "JPEG", quality=100, subsampling=0)
        data += file.getvalue()
    at = data.index(b"Adobe") + 11  # the transform: 0 CMYK, 2 YCCK
    data[at] = 2
    found = codecs.decode(bytes(data), codecs.header_of(bytes(data)))
    stored = np.asarray(Image.open(io.BytesIO(bytes(data)))).astype(int)
    wanted = (255 - stored[..., :3]) * (255 - stored[..., 3:]) / 255
    assert np.abs(found - wanted).max() <= 1


def test_16_bits_by_a_profile_of_tables() -> None:
    icc = table_profile(b"RGB ")
    image = picture()
    with bound(icc):
        eight = convert.to_srgb(image, "profile RGB x").astype(int)
        deep = convert.to_srgb(image.astype(np.uint16) * 257, "profile RGB x") / 257
    assert np.abs(eight - deep).max() <= 1


@pytest.mark.parametrize("tile", ["never", "always"])
def test_lab_tiff_becomes_srgb(tile: str, tmp_path: Path) -> None:
    lab = ImageCms.applyTransform(
        Image.fromarray(picture()),
        ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB", 5003), "RGB", "LAB", _RELATIVE
        ),
    )
    assert lab is not None
    lab.save(tmp_path / "a.tif")
    assert near(pixel(made(tmp_path / "a.tif", tmp_path, format="png", tile=tile)), RED)
