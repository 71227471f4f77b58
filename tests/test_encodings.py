"""Options of encoders: a limit of bytes, lossless, progressive, effort, subsampling, only smaller files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import imageloom
from imageloom import codecs
from imageloom.codecs import fitting
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.errors import LimitExceeded, PipelineError, UsageError
from imageloom.model import Encoding, Frame, Header, Output, Pixels, Recipe, Step
from imageloom.recipes.meaning import Meanings
from imageloom.recipes.plan import make_plan
from imageloom.recipes.recipe import from_data
from imageloom.recipes.schema import recipe_schema
from program import contents, draw
from program import imageloom as command


def photo(width: int = 320, height: int = 400) -> Pixels:
    """Soft shapes with some grain."""
    y, x = np.mgrid[:height, :width]
    planes = [np.sin(x / (17 + c)) * np.cos(y / (23 - c)) * 90 + 128 for c in range(3)]
    grain = np.random.default_rng(1).normal(0, 6, (height, width, 3))
    return (np.dstack(planes) + grain).clip(0, 255).astype(np.uint8)


def encoded(format: str, image: Pixels, encoding: Encoding) -> bytes:
    made = codecs.encode(format, image, encoding)
    assert isinstance(made, bytes)
    return made


def decoded(data: bytes) -> Pixels:
    return codecs.decode(data, codecs.header_of(data))


def process(folder: Path, pipeline: object, sink: str = "out", **options: object) -> imageloom.Summary:
    return imageloom.process(
        pipeline,  # type: ignore[arg-type]
        folder / "in",
        folder / sink,
        engine="serial",
        ledger=folder / "ledger.db",
        **options,  # type: ignore[arg-type]
    )


class Counted:
    """A codec that counts how often an image is encoded."""

    def __init__(self, format: str, image: Pixels) -> None:
        self.codec, self.image = codecs.get(format), image
        self.format, self.quality = format, self.codec.quality
        self.sizes: dict[int, int] = {}

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        data = self.codec.encode(image, encoding, metadata)
        if image is self.image:
            self.sizes[encoding.quality] = len(data)
        return data


@pytest.mark.parametrize(("format", "share"), [("jpeg", 0.2), ("jpeg", 0.9), ("webp", 0.4)])
def test_the_largest_quality_that_fits_is_found(format: str, share: float) -> None:
    image = photo()
    codec = Counted(format, image)
    most = int(share * len(codec.codec.encode(image, Encoding(95))))
    made = fitting.within(codec, image, Encoding(95, max_bytes=most), NO_METADATA)  # type: ignore[arg-type]
    assert len(made) <= most
    assert len(codec.sizes) <= fitting.MOST_ENCODES
    found = max(quality for quality, size in codec.sizes.items() if size == len(made))
    above = [q for q in range(found + 1, 96) if len(codec.codec.encode(image, Encoding(q))) <= most]
    assert len(above) <= 2
    assert made == codecs.encode(format, image, Encoding(95, max_bytes=most))


def test_one_that_fits_at_the_asked_quality_is_encoded_once() -> None:
    image = photo(64, 64)
    codec = Counted("jpeg", image)
    made = fitting.within(codec, image, Encoding(85, max_bytes=1 << 20), NO_METADATA)  # type: ignore[arg-type]
    assert (list(codec.sizes), made) == ([85], codecs.encode("jpeg", image, Encoding(85)))


def test_what_does_not_fit_fails_by_name(tmp_path: Path) -> None:
    image = photo(64, 64)
    for format in ("jpeg", "png"):
        with pytest.raises(LimitExceeded, match=r"over the limit of 100\b.*--max-bytes"):
            codecs.encode(format, image, Encoding(85, max_bytes=100))
    with pytest.raises(LimitExceeded, match="no quality"):
        codecs.encode("webp", image, Encoding(80, lossless=True, max_bytes=100))
    draw(tmp_path / "in/a.jpg")
    ran = process(tmp_path, "flip", max_bytes=100)
    assert ran.failures["a.jpg"].kind == "LimitExceeded"
    assert contents(tmp_path / "out") == {}


def test_metadata_counts(tmp_path: Path) -> None:
    metadata = Metadata(xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + b" " * 3000 + b"</x:xmpmeta>")
    made = codecs.encode("jpeg", photo(), Encoding(90, max_bytes=9000), metadata)
    assert 6000 < len(made) <= 9000


@pytest.mark.parametrize("format", ["webp", "png", "jxl"])
def test_effort(format: str) -> None:
    image = photo(160, 120)
    fast, small = (encoded(format, image, Encoding(80, effort=effort)) for effort in (1, 9))
    assert len(small) < len(fast)
    for data in (fast, small):
        assert decoded(data).shape == image.shape


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_webp_with_effort_is_that_of_opencv_at_the_same_method(channels: int) -> None:
    image = np.dstack([photo(80, 60), photo(80, 60)])[:, :, :channels]
    image = np.ascontiguousarray(image[:, :, 0] if channels == 1 else image)
    plain, same = (decoded(encoded("webp", image, Encoding(80, effort=effort))) for effort in (0, 6))
    assert np.array_equal(plain, same)


@pytest.mark.parametrize("shape", [(60, 80), (60, 80, 3)])
def test_a_progressive_jpeg_has_the_pixels_of_a_plain_one(shape: tuple[int, ...]) -> None:
    image = photo(80, 60) if len(shape) == 3 else photo(80, 60)[:, :, 0]
    plain, progressive = (encoded("jpeg", image, Encoding(85, progressive=value)) for value in (False, True))
    assert b"\xff\xc2" in progressive
    assert codecs.header_of(progressive).buffered > 0
    difference = decoded(plain).astype(int) - decoded(progressive)
    assert np.abs(difference).mean() < 1


def test_subsampling_of_avif() -> None:
    image = photo(64, 64)
    less = encoded("avif", image, Encoding(80, subsampling="420"))
    assert len(less) < len(encoded("avif", image, Encoding(80, subsampling="444")))


def test_options_that_a_format_lacks_are_usage_errors(tmp_path: Path) -> None:
    draw(tmp_path / "in/a.jpg")
    for options, named in (
        ({"format": "webp", "progressive": True}, "--progressive: webp has no such option.*jpeg"),
        ({"format": "jpeg", "lossless": True}, "--lossless: jpeg has no such option"),
        ({"format": "bmp", "effort": 3}, "--effort: bmp has no such option"),
        ({"format": "webp", "subsampling": "444"}, "--subsampling: webp"),
        ({"format": "png", "max_bytes": 1000}, "--max-bytes: png has no quality"),
        ({"format": "webp", "max_bytes": 1000, "lossless": True}, "--lossless excludes --max-bytes"),
        ({"format": "webp", "quality": 50, "lossless": True}, "--lossless excludes --quality"),
        ({"formats": ["webp", "avif"], "progressive": True}, "--progressive: none of the formats"),
        ({"effort": 12}, "effort"),
    ):
        with pytest.raises(UsageError, match=named):
            process(tmp_path, "flip", **options)
    process(tmp_path, "flip", formats=["webp", "jpeg"], progressive=True, lossless=True)
    headers = [codecs.header_of(data) for data in contents(tmp_path / "out").values()]
    assert sorted((header.format, header.lossless) for header in headers) == [("jpeg", False), ("webp", True)]


def test_only_if_smaller_copies_or_leaves_out(tmp_path: Path) -> None:
    original = draw(tmp_path / "in/a.jpg").read_bytes()
    for sink, pipeline, options, made in (
        ("same", "resize 100%", {"quality": 100}, [original]),
        ("other", "resize 100%", {"format": "bmp"}, []),
        ("changed", "flip", {"quality": 100}, []),
        ("stripped", "resize 100%", {"quality": 100, "metadata": "strip"}, []),
        ("smaller", "resize 50%", {}, None),
    ):
        assert process(tmp_path, pipeline, sink, only_if_smaller=True, **options).done == 1, sink
        found = list(contents(tmp_path / sink).values())
        assert found == made or (made is None and len(found[0]) < len(original)), sink
        again = process(tmp_path, pipeline, sink, only_if_smaller=True, **options)
        assert (again.done, again.unchanged) == (0, 1), sink


@pytest.mark.parametrize("durable", [False, True])
def test_only_if_smaller_in_place_leaves_the_file(tmp_path: Path, durable: bool) -> None:
    original = draw(tmp_path / "in/a.jpg").read_bytes()
    for done in (1, 0):
        ran = imageloom.process(
            "flip", tmp_path / "in", tmp_path / "in", in_place=True, quality=100, only_if_smaller=True,
            engine="serial", ledger=tmp_path / "ledger.db", durable=durable,
        )  # fmt: skip
        assert (ran.done, ran.failed) == (done, 0)
    assert contents(tmp_path / "in") == {"a.jpg": original}


def test_the_sandbox_and_other_processes_leave_out_too(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        draw(tmp_path / "in" / name)
    ran = command(
        "run", "flip", "in", "out", "--only-if-smaller", "--quality", "100", "--engine", "processes", "-j", "1",
        "--sandbox", "require", "--ledger", "ledger.db", cwd=tmp_path,
    )  # fmt: skip
    assert (ran.returncode, contents(tmp_path / "out")) == (0, {}), ran.stderr


def test_recipes_without_the_options_keep_their_meaning() -> None:
    text = Meanings(Recipe((Output((Step("flip"),)),)), "{dir}/{stem}.{ext}").of("a.jpg")
    assert json.loads(text)[1]["outputs"] == [
        {"steps": [{"name": "flip", "params": {}}], "folder": "", "format": None, "quality": None}
    ]


def test_a_plan_says_the_options() -> None:
    recipe = Recipe((Output((), format="jpeg", max_bytes=5000, progressive=True, effort=3),))
    (output,) = make_plan(Header("png", Frame(100, 80, 3)), recipe).outputs
    assert output.encoding == Encoding(85, max_bytes=5000, progressive=True)


def test_yaml_and_its_schema() -> None:
    entry = {
        "pipeline": "flip", "format": "webp", "max_bytes": "1.5k", "effort": 9, "only_if_smaller": True,
        "subsampling": None, "name": "{stem}.{ext}",
    }  # fmt: skip
    (output,) = from_data({"outputs": {"web": entry}}, Path("r.yaml")).outputs
    expected = Output(
        (Step("flip"),), "web", "webp", max_bytes=1500, effort=9, only_if_smaller=True, name="{stem}.{ext}"
    )
    assert output == expected
    properties = recipe_schema()["$defs"]["output"]["oneOf"][1]["properties"]
    assert properties.keys() >= entry.keys() | {"when", "widths", "formats", "lossless", "progressive"}
    for key, wrong, named in (
        ("max_bytes", "12 apples", "number of bytes, such as 200k"),
        ("effort", 10, "from 1 to 9"),
        ("lossless", "yes", "true or false"),
        ("when", "width >", "at character 8"),
        ("name", "{stm}.jpg", "did you mean {stem}"),
        ("widths", [0], "from 1 to"),
        ("formats", ["tga"], "there is no format 'tga'"),
    ):
        with pytest.raises(PipelineError, match=f"output web: {key}.*{named}"):
            from_data({"outputs": {"web": {"pipeline": "flip", key: wrong}}}, Path("r.yaml"))
