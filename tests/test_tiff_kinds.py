"""Kinds of TIFF that other programs write: decoded alike whole and in tiles, or refused by name.

Written and read by tifffile.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tiffs import Ran, ramp, run, tiff

RGB = np.dstack((ramp(), ramp()[::-1], ramp()[:, ::-1]))
NEAR_INFRARED = np.where(np.arange(64) < 32, 0, 200).astype(np.uint8)[None].repeat(48, 0)
BANDS = np.dstack((RGB, NEAR_INFRARED))
COLOURS = np.random.default_rng(5).integers(0, 256, (3, 256)).astype(np.uint16)
PALETTES = {f"{bits}-bit-palette": bits for bits in (1, 2, 4, 8)}


def palette(bits: int, factor: int) -> bytes:
    """An image whose palette has 8-bit values times the factor, as 16-bit numbers."""
    if bits == 8:
        return tiff(ramp(), photometric="palette", colormap=COLOURS * factor)
    file = io.BytesIO()
    width = 64 * bits // 8
    packed = np.packbits(
        ((ramp(top=(1 << bits) - 1)[..., None] >> np.arange(bits - 1, -1, -1)) & 1).reshape(48, -1), axis=1
    )
    assert packed.shape == (48, width)
    Image.new("P", (64, 48)).save(file, "TIFF")
    return handmade(packed.tobytes(), bits, (COLOURS[:, : 1 << bits] * factor).ravel())


def handmade(pixels: bytes, bits: int, values: Any) -> bytes:
    """A little-endian file of one strip with a palette."""
    table = np.asarray(values, "<u2").tobytes()
    tags = [
        (256, 4, 1, 64),
        (257, 4, 1, 48),
        (258, 3, 1, bits),
        (259, 3, 1, 1),
        (262, 3, 1, 3),
        (273, 4, 1, 8),
        (277, 3, 1, 1),
        (278, 4, 1, 48),
        (279, 4, 1, len(pixels)),
        (320, 3, len(table) // 2, 8 + len(pixels)),
    ]
    at = 8 + len(pixels) + len(table)
    entries = b"".join(
        code.to_bytes(2, "little")
        + kind.to_bytes(2, "little")
        + count.to_bytes(4, "little")
        + value.to_bytes(4, "little")
        for code, kind, count, value in tags
    )
    start = b"II*\0" + at.to_bytes(4, "little") + pixels + table
    return start + len(tags).to_bytes(2, "little") + entries + bytes(4)


FILES: dict[str, bytes] = {
    **{f"{name}.tif": palette(bits, 257) for name, bits in PALETTES.items()},
    **{f"{name}-low.tif": palette(bits, 1) for name, bits in PALETTES.items()},
    "unspecified.tif": tiff(BANDS, photometric="rgb", extrasamples=["unspecified"]),
    "unspecified-16.tif": tiff(
        BANDS.astype(np.uint16) * 257, photometric="rgb", extrasamples=["unspecified"]
    ),
    "unspecified-float.tif": tiff(
        BANDS.astype(np.float32) / 255,
        photometric="rgb",
        extrasamples=["unspecified"],
        predictor=3,
        compression=8,
    ),
    "unspecified-planes.tif": tiff(
        np.moveaxis(BANDS, 2, 0).copy(),
        photometric="rgb",
        planarconfig="separate",
        extrasamples=["unspecified"],
        tile=(16, 16),
        compression="lzw",
    ),
    "gray-and-more.tif": tiff(BANDS[:, :, 2:], photometric="minisblack", extrasamples=["unspecified"]),
    "six-bands.tif": tiff(
        np.dstack((BANDS, ramp(), ramp()[::-1])), photometric="minisblack", planarconfig="contig"
    ),
    "alpha-behind.tif": tiff(
        np.dstack((BANDS, ramp())), photometric="rgb", extrasamples=["unspecified", "unassalpha"]
    ),
    "alpha.tif": tiff(BANDS, photometric="rgb", extrasamples=["unassalpha"]),
    "associated.tif": tiff(
        np.minimum(BANDS, NEAR_INFRARED[..., None]), photometric="rgb", extrasamples=["assocalpha"]
    ),
    "signed.tif": tiff(ramp(top=4000, dtype="int16") - np.int16(500)),
    "half.tif": tiff(ramp().astype(np.float16) / 255),
    "planes.tif": tiff(
        np.moveaxis(RGB, 2, 0).copy(), photometric="rgb", planarconfig="separate", tile=(32, 32)
    ),
    "jpeg.tif": tiff(RGB, photometric="ycbcr", compression="jpeg", tile=(32, 32)),
    "big-endian.tif": tiff(RGB, photometric="rgb", byteorder=">", bigtiff=True),
    "white-is-zero.tif": tiff(ramp(), photometric="miniswhite"),
    "double.tif": tiff(ramp().astype(np.float64)),
    "complex.tif": tiff(ramp().astype(np.complex64)),
    "long.tif": tiff(ramp().astype(np.uint32)),
    "pages.tif": tiff(np.stack([RGB, RGB]), photometric="rgb"),
}
REFUSED = {"double.tif", "complex.tif", "long.tif"}


def without_extra_said(data: bytes) -> bytes:
    """The same file without its tag ExtraSamples."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        at = file.pages.first.tags[338].offset
    return data[:at] + (340).to_bytes(2, "little") + data[at + 2 :]


FILES["absent.tif"] = without_extra_said(FILES["unspecified.tif"])


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run(tmp_path_factory.mktemp("same"), FILES, "auto_orient")


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run(tmp_path_factory.mktemp("halved"), FILES, "resize 50%")


def test_only_kinds_that_cannot_be_kept_are_refused(same: Ran) -> None:
    assert set(same.failed) == REFUSED
    assert all(said.startswith("UnsupportedImage: TIFF of ") for said in same.failed.values())


@pytest.mark.parametrize("name", PALETTES)
def test_palettes_of_8_bit_values_are_taken_as_such(same: Ran, name: str) -> None:
    indices = ramp(top=(1 << PALETTES[name]) - 1)
    for made in (same.pixels(f"{name}.tif"), same.pixels(f"{name}-low.tif")):
        np.testing.assert_array_equal(made, COLOURS.T[indices])


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in FILES
        if "unspecified" in n or n in ("absent.tif", "gray-and-more.tif", "six-bands.tif", "alpha-behind.tif")
    ],
)
def test_extra_samples_stay_as_they_are(same: Ran, name: str) -> None:
    before = tifffile.imread(io.BytesIO(FILES[name]))
    if name == "unspecified-planes.tif":
        before = np.moveaxis(before, 0, 2)
    before = before[..., [0, 1, 2, 4, 3]] if name == "alpha-behind.tif" else before
    np.testing.assert_array_equal(same.pixels(name), before)
    said = {"six-bands.tif": (0,) * 5, "alpha-behind.tif": (2, 0)}
    assert same.tags(name)[338] == said.get(name, (0,))
    assert same.dropped[name] == ()


def test_extra_samples_do_not_weigh_the_colours(halved: Ran) -> None:
    means = BANDS.reshape(24, 2, 32, 2, 4).mean((1, 3))
    for name in ("unspecified.tif", "absent.tif", "unspecified-planes.tif"):
        assert np.abs(halved.pixels(name) - means).max() <= 1
        assert halved.tags(name)[338] == (0,)
    assert (halved.pixels("associated.tif")[:, :15, :3] == 0).all()


def test_alpha_is_still_alpha(same: Ran, halved: Ran) -> None:
    np.testing.assert_array_equal(same.pixels("alpha.tif"), BANDS)
    assert same.tags("alpha.tif")[338] == same.tags("associated.tif")[338] == (2,)
    assert (halved.pixels("alpha.tif")[:, :15] == 0).all(), "clear pixels have no colour"


def test_numbers_that_float32_holds_are_kept(same: Ran) -> None:
    np.testing.assert_array_equal(same.pixels("signed.tif"), ramp(top=4000, dtype="int16") - np.int16(500))
    np.testing.assert_array_equal(same.pixels("half.tif"), ramp().astype(np.float16) / 255)
    assert same.pixels("signed.tif").dtype == np.float32


@pytest.mark.parametrize(
    "pipeline", ["gaussian_blur 2", "rotate 90", "pad 5 color=#ff0000", "median_blur 3", "sobel"]
)
def test_operators_process_each_extra_sample_by_itself(pipeline: str, tmp_path: Path) -> None:
    names = ("six-bands.tif", "unspecified.tif")
    given = {name: FILES[name] for name in names}
    bands = {
        f"{band}.tif": tiff(np.dstack((BANDS, ramp(), ramp()[::-1]))[..., band].copy()) for band in range(6)
    }
    made = run(tmp_path, given | bands | {"rgb.tif": tiff(RGB, photometric="rgb")}, pipeline)
    six, four = (made.pixels(name) for name in names)
    for band in range(6):
        np.testing.assert_array_equal(six[..., band], made.pixels(f"{band}.tif"))
    np.testing.assert_array_equal(four[..., :3], made.pixels("rgb.tif"))
    np.testing.assert_array_equal(four[..., 3], made.pixels("3.tif"))


@pytest.mark.parametrize(
    "pipeline", ["grayscale", "brightness 20", "invert", "threshold otsu", "autocontrast", "clahe"]
)
def test_tones_of_extra_samples_do_not_change(pipeline: str, tmp_path: Path) -> None:
    name = "gray-and-more.tif" if "otsu" in pipeline else "unspecified.tif"
    made = run(tmp_path, {name: FILES[name]}, pipeline)
    np.testing.assert_array_equal(made.pixels(name)[..., -1], NEAR_INFRARED)
    assert made.tags(name)[338] == (0,)


def test_formats_without_extra_samples_say_so(tmp_path: Path) -> None:
    names = ("unspecified.tif", "six-bands.tif", "alpha-behind.tif")
    made = run(tmp_path, {name: FILES[name] for name in names}, "canny", format="png")
    assert made.dropped == dict.fromkeys(names, ("extra samples",))
    assert Image.open(io.BytesIO(made.made["unspecified.png"])).mode == "L"
    made = run(tmp_path / "again", {name: FILES[name] for name in names}, "auto_orient", format="png")
    modes = [Image.open(io.BytesIO(made.made[name[:-3] + "png"])).mode for name in names]
    assert modes == ["RGB", "L", "RGBA"]


def test_edges_of_images_with_extra_samples_are_refused_by_name(tmp_path: Path) -> None:
    made = run(tmp_path, {"a.tif": FILES["unspecified.tif"]}, "canny")
    assert made.failed["a.tif"].startswith("OperatorRefused: canny does not take extra samples")


def with_a_loop(data: bytes) -> bytes:
    """The file whose directory says that it follows itself."""
    at = int.from_bytes(data[4:8], "little")
    end = at + 2 + 12 * int.from_bytes(data[at : at + 2], "little")
    return data[:end] + data[4:8] + data[end + 4 :]


def changed(data: bytes, code: int, value: int) -> bytes:
    """The file with another number in a tag of one value."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag = file.pages.first.tags[code]
    size = 2 if tag.dtype == 3 else 4
    return data[: tag.valueoffset] + value.to_bytes(size, "little") + data[tag.valueoffset + size :]


def test_harmless_faults_of_storage_do_not_matter(tmp_path: Path) -> None:
    """Other programs read these files too: directories in a loop, a last strip that is filled up with rows behind
    the image, and an uncompressed strip whose size is too large."""
    files = {
        "loop.tif": with_a_loop(tiff(RGB, photometric="rgb")),
        "size.tif": changed(tiff(RGB, photometric="rgb"), 279, 1 << 30),
    }
    for packing in ("deflate", "zstd", "packbits", "lzw"):
        full = tiff(np.vstack((RGB, RGB[:16])), photometric="rgb", rowsperstrip=32, compression=packing)
        files[f"{packing}.tif"] = changed(full, 257, 48)
    made = run(tmp_path, files, "auto_orient")
    assert not made.failed
    for name in files:
        np.testing.assert_array_equal(made.pixels(name), RGB)
    expected = dict.fromkeys(files, ()) | {"loop.tif": ("damaged metadata",)}
    assert made.dropped == expected
