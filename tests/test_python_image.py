"""One image from Python: opened, processed, saved; arrays and images of Pillow; the same bytes as a run."""

from __future__ import annotations

import io
import os
import pickle
import threading
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import pytest

import imageloom
from imageloom import Image, Metadata, Pipeline, UsageError, ops
from imageloom.bench.samples import draw_photo
from imageloom.errors import (
    CorruptImage,
    ImageloomError,
    LimitExceeded,
    MissingFile,
    OperatorRefused,
    UnsupportedImage,
)
from program import contents, draw

PHOTO = draw_photo(3, 120, 90)
ORIENTATION = 274
FILES: dict[str, dict[str, Any]] = {
    "jpeg": {"quality": 90, "subsampling": 0},
    "png": {},
    "webp": {"quality": 80},
    "tiff": {"compression": "tiff_deflate"},
    "gif": {},
    "bmp": {},
    "ppm": {},
    "avif": {"quality": 70},
}


def file(format: str, mode: str = "RGB", orientation: int = 6) -> bytes:
    """A small file that Pillow writes, with an EXIF orientation where the format has one."""
    image = PIL.Image.fromarray(PHOTO).convert(mode)
    if format in ("jpeg", "png", "webp", "tiff", "avif"):
        exif = PIL.Image.Exif()
        exif[ORIENTATION] = orientation
        exif[271] = "Loom"
        FILES[format]["exif"] = exif
    made = io.BytesIO()
    image.save(made, format, **FILES[format])
    return made.getvalue()


PIPELINES = (
    "resize 30x",
    "grayscale | gaussian_blur 1.5 | resize 50%",
    "rotate 90 | posterize 4 | crop 20x10",
)
OUTPUTS: tuple[dict[str, Any], ...] = (
    {},
    {"format": "png", "colors": "srgb"},
    {"format": "jpeg", "quality": 50, "subsampling": "keep"},
    {"format": "tiff", "metadata": "strip"},
    {"format": "webp", "quality": 30},
)


@pytest.mark.parametrize("format", FILES)
def test_the_bytes_are_those_of_a_run(format: str, tmp_path: Path) -> None:
    source = tmp_path / f"photo.{format}"
    source.write_bytes(file(format))
    for number, (pipeline, options) in enumerate(product(PIPELINES, OUTPUTS)):
        if (number + len(format)) % 5 and number > 2:  # a choice of all pairs
            continue
        sink = tmp_path / str(number)
        done = imageloom.process(
            pipeline, source, sink, engine="serial", ledger=tmp_path / "ledger.db", **options
        )
        assert done.done == 1, done.failures
        (expected,) = contents(sink).values()
        assert Pipeline(pipeline)(imageloom.open(source)).encode(**options) == expected, (pipeline, options)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_pixels_are_upright_and_the_metadata_says_so(orientation: int) -> None:
    data = file("png", orientation=orientation)
    image = imageloom.open(data)
    expected = np.asarray(PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data))))
    assert np.array_equal(np.asarray(image), expected)
    assert (image.height, image.width) == expected.shape[:2] == image.shape[:2]
    exif = PIL.Image.Exif()
    exif.load(b"Exif\0\0" + image.metadata.exif)
    assert (exif.get(ORIENTATION, 1), exif[271]) == (1, "Loom")


def test_what_an_image_is() -> None:
    image = imageloom.open(file("jpeg", orientation=1))
    assert (image.width, image.height, image.size, image.shape) == (120, 90, (120, 90), (90, 120, 3))
    assert (image.mode, image.dtype, image.format, image.page, image.pages) == ("RGB", "uint8", "jpeg", 1, 1)
    assert (image.extra, image.profile, image.colours, image.warnings) == (0, b"", "", ())
    gray = image.apply("grayscale | resize 50%")
    assert (gray.mode, gray.size, gray.shape) == ("gray", (60, 45), (45, 60))
    assert gray.pixels.shape == gray.shape
    assert repr(gray) == "<Image 60x45 gray uint8 jpeg after 'grayscale | resize 50%'>"
    assert image.size == (120, 90)


def test_pixels_are_read_only_and_never_change() -> None:
    given = PHOTO.copy()
    image = Image.from_array(given)
    given[:] = 0
    assert np.array_equal(image.pixels, PHOTO)
    with pytest.raises(ValueError, match="read-only"):
        image.pixels[0, 0] = 0


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_arrays_go_in_and_come_out(channels: int, dtype: str) -> None:
    top = 1 if dtype == "float32" else np.iinfo(dtype).max
    pixels = (np.random.default_rng(1).random((7, 9, channels)) * top).astype(dtype)
    flat = pixels[:, :, 0] if channels == 1 else pixels
    image = Image.from_array(pixels)
    assert np.array_equal(image.pixels, flat)
    assert image.dtype == dtype
    assert np.array_equal(image.apply("flip").pixels, flat[:, ::-1])
    assert np.array_equal(imageloom.open(image.encode("tiff")).pixels, flat)
    assert np.asarray(image, "float64").dtype == "float64"
    assert np.array_equal(Pipeline("flip")(flat[:, ::-1]), flat)  # a view that is not contiguous
    assert np.array_equal(ops.flip(flat.astype(pixels.dtype.newbyteorder("S"))), flat[:, ::-1])


@pytest.mark.parametrize(
    ("mode", "after"), [("1", "L"), ("L", "L"), ("LA", "LA"), ("P", "RGB"), ("RGBA", "RGBA")]
)
def test_images_of_pillow_come_back_as_images_of_pillow(mode: str, after: str) -> None:
    image = PIL.Image.fromarray(PHOTO).convert(mode)
    made = Pipeline("flip")(image)
    assert isinstance(made, PIL.Image.Image)
    assert (made.mode, made.size) == (after, image.size)
    assert np.array_equal(np.asarray(made), np.asarray(image.convert(after))[:, ::-1])
    assert Image.from_pil(image).to_pil().tobytes() == image.convert(after).tobytes()


def test_a_colour_that_is_transparent_becomes_alpha() -> None:
    colours = PIL.Image.new("RGB", (2, 1), (1, 2, 3))
    colours.info["transparency"] = (1, 2, 3)
    assert Image.from_pil(colours).pixels[0, 0].tolist() == [1, 2, 3, 0]
    gray = PIL.Image.new("L", (2, 1), 5)
    gray.info["transparency"] = 5
    assert Image.from_pil(gray).pixels[0, 0].tolist() == [5, 0]
    palette = PIL.Image.new("RGBA", (2, 1), (1, 2, 3, 0)).quantize()
    assert Image.from_pil(palette).pixels[0, 0, 3] == 0


def test_the_orientation_and_the_profile_of_pillows_images() -> None:
    opened = PIL.Image.open(io.BytesIO(file("jpeg")))
    assert ops.flip(opened).size == (90, 120)
    image = PIL.Image.fromarray(PHOTO)
    srgb = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    image.info["icc_profile"] = srgb
    assert ops.flip(image).info["icc_profile"] == Image.from_pil(image).profile == srgb
    assert "icc_profile" not in ops.grayscale(image).info


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (None, "image = None: it must be an array"),
        ([[1, 2]], "it must be an array"),
        (np.zeros((3, 3)), "float64 is not an image.*float32"),
        (np.zeros((3, 3), bool), r"\* 255"),
        (np.zeros((0, 3), "uint8"), r"shape \(0, 3\)"),
        (np.zeros((3, 3, 5), "uint8"), r"shape \(3, 3, 5\)"),
        (PIL.Image.new("CMYK", (3, 3)), r"CMYK.*convert\('RGB'\)"),
        (PIL.Image.new("I", (3, 3), 70_000), "0 to 65535"),
    ],
)
def test_what_is_no_image_is_named(image: Any, said: str) -> None:
    for call in (Pipeline("flip"), ops.flip):
        with pytest.raises(UsageError, match=said):
            call(image)


def test_where_an_image_is_read_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = draw(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    data = path.read_bytes()
    sources: list[Any] = [path, str(path), "a.png", f"file://{path}", data, bytearray(data), io.BytesIO(data)]
    with path.open("rb") as opened:
        for source in (*sources, opened):
            with imageloom.open(source) as image:
                assert (image.size, image.format) == ((120, 90), "png")


def test_a_pipe_is_read_to_its_end() -> None:
    data = file("png")
    reader, writer = os.pipe()

    def write() -> None:
        with open(writer, "wb", buffering=0) as pipe:
            for at in range(0, len(data), 1000):
                pipe.write(data[at : at + 1000])

    thread = threading.Thread(target=write)
    thread.start()
    with open(reader, "rb", buffering=0) as pipe:
        found = imageloom.open(pipe)
    thread.join()
    assert np.array_equal(found.pixels, imageloom.open(data).pixels)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (tmp_path / "text.jpg").write_text("text")
    for name, kind in (
        ("nothing.jpg", MissingFile),
        ("bad.jpg", CorruptImage),
        ("text.jpg", UnsupportedImage),
    ):
        with pytest.raises(kind, match=str(tmp_path / name)):
            imageloom.open(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        imageloom.open(tmp_path / "nothing.jpg")
    with pytest.raises(ImageloomError, match="is a folder"):
        imageloom.open(tmp_path)
    whole = file("png")
    with pytest.raises(ImageloomError, match="cut off"):
        imageloom.open(whole[: len(whole) // 2]).pixels  # noqa: B018
    with pytest.raises(LimitExceeded, match="max-pixels"):
        imageloom.open(whole, limits=imageloom.Limits(max_pixels=100))
    with pytest.raises(OperatorRefused, match=r"a\.png: crop"):
        imageloom.open(draw(tmp_path / "a.png")).apply("crop 500x500")


def test_saving_replaces_a_file_in_one_step_and_reports_losses(tmp_path: Path) -> None:
    image = imageloom.open(file("jpeg"))
    (tmp_path / "out.png").write_bytes(b"old")
    os.link(tmp_path / "out.png", tmp_path / "old.png")
    saved = image.save(tmp_path / "out.png")
    assert (saved.format, saved.path, saved.size) == (
        "png",
        str(tmp_path / "out.png"),
        (tmp_path / "out.png").stat().st_size,
    )
    assert (tmp_path / "old.png").read_bytes() == b"old"
    (tmp_path / "out.png").chmod(0o600)
    image.save(tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_mode & 0o777 == 0o600
    assert image.save(tmp_path / "out.bmp").dropped == ("EXIF",)
    buffer = io.BytesIO()
    assert image.save(buffer, quality=40).format == "jpeg"
    assert buffer.getvalue() == image.encode(quality=40)
    image.save(tmp_path / "out.zarr")
    image.save(tmp_path / "out.zarr")
    assert (tmp_path / "out.zarr" / "zarr.json").exists()
    (tmp_path / "out.zarr" / "zarr.json").rename(tmp_path / "out.zarr" / "notes.txt")
    with pytest.raises(imageloom.StorageError, match="other files"):
        image.save(tmp_path / "out.zarr")
    assert (tmp_path / "out.zarr" / "notes.txt").exists()
    with pytest.raises(UnsupportedImage):
        Image.from_array(PHOTO.astype("float32") / 255).save(tmp_path / "float.jpg")
    with pytest.raises(imageloom.StorageError, match="there is no folder"):
        image.save(tmp_path / "none" / "a.png")
    assert sorted(os.listdir(tmp_path)) == ["old.png", "out.bmp", "out.png", "out.zarr"]


def test_an_image_can_be_pickled_and_shown() -> None:
    image = imageloom.open(file("jpeg")).apply("resize 40x")
    again = pickle.loads(pickle.dumps(image))
    assert again.encode() == image.encode()
    assert PIL.Image.open(io.BytesIO(image._repr_png_())).size == image.size
    assert "data:image/png;base64," in image._repr_html_()
    shown = imageloom.compare(image, "canny", Pipeline("flip"))._repr_html_()
    assert shown.count("<img") == 3
    assert imageloom.open(file("tiff")).apply("resize 1000x")._repr_png_().startswith(b"\x89PNG")


def test_metadata_of_an_array_is_saved() -> None:
    srgb = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    image = Image.from_array(PHOTO, metadata=Metadata(icc=srgb))
    assert PIL.Image.open(io.BytesIO(image.encode("png"))).info["icc_profile"] == srgb
    assert "icc_profile" not in PIL.Image.open(io.BytesIO(image.encode("png", metadata="strip"))).info
