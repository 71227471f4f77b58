"""Gain maps, checked with libultrahdr: the HDR rendition of the output is that of the input, moved."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from imageloom import Pixels, codecs
from program import Run, imageloom

ultrahdr = pytest.importorskip("imagecodecs")
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


def photo(scale: int = 4) -> bytes:
    """A bright disc before a smooth ground, 640x480, at most four times as bright as white. The map is smaller by
    the scale."""
    y, x = np.mgrid[0:480, 0:640].astype(np.float32)
    ground = np.stack([0.1 + x / 1600, 0.1 + y / 1200, 0.4 - x / 3200], axis=-1)
    light = np.clip((130 - np.hypot(x - 200, y - 180)) / 60, 0, 1)[..., None]
    hdr = ground + light * np.array([3.6, 3.2, 2.5], np.float32)
    rgba = np.dstack([hdr, np.ones((480, 640), np.float32)]).astype(np.float16)
    codes = ultrahdr.ULTRAHDR
    data: bytes = ultrahdr.ultrahdr_encode(
        rgba, 95, scale=scale, gamut=codes.CG.BT_709, transfer=codes.CT.LINEAR, nits=1000
    )
    return data


def hdr_of(data: bytes) -> Pixels:
    pixels: Pixels = ultrahdr.ultrahdr_decode(data)[..., :3].astype(np.float32)
    return pixels


def shrunk(image: Pixels, width: int, height: int) -> Pixels:
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA)


OPERATIONS: dict[str, Callable[[Pixels], Pixels]] = {
    "resize 50%": lambda image: shrunk(image, 320, 240),
    "resize 80x60": lambda image: shrunk(image, 80, 60),
    "crop 301x207+101+37": lambda image: image[37:244, 101:402],
    "flip": lambda image: image[:, ::-1],
    "flip vertical": lambda image: image[::-1],
    "rotate 90": lambda image: np.rot90(image, -1),
    "rotate 270 | crop 400x400+10+50 | resize 50%": lambda i: shrunk(np.rot90(i)[50:450, 10:410], 200, 200),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("in") / "a.jpg"
    path.write_bytes(photo())
    return path


@pytest.mark.parametrize("pipeline", OPERATIONS)
def test_the_hdr_rendition_is_moved_as_the_photo_is(pipeline: str, source: Path, tmp_path: Path) -> None:
    run = Run(pipeline, source, tmp_path, engine="serial", quality=95)
    assert run.summary.dropped == {}
    found = hdr_of((tmp_path / "a.jpg").read_bytes()) @ LUMA
    wanted = OPERATIONS[pipeline](hdr_of(source.read_bytes())) @ LUMA
    error = np.abs(found - wanted) / wanted
    assert np.median(error) < 0.02
    assert np.percentile(error, 99) < 0.1


@pytest.mark.parametrize("pipeline", ["flip", "rotate 180"])
def test_a_map_as_large_as_the_photo_is_turned_exactly(pipeline: str, tmp_path: Path) -> None:
    def map_of(data: bytes) -> Pixels:
        found = codecs.read_metadata(data, "jpeg").gain_map
        return codecs.decode(found, codecs.header_of(found)).astype(int)

    source = tmp_path / "in" / "a.jpg"
    source.parent.mkdir()
    source.write_bytes(photo(scale=1))
    Run(pipeline, source, tmp_path / "out", engine="serial")
    before, after = map_of(source.read_bytes()), map_of((tmp_path / "out" / "a.jpg").read_bytes())
    wanted = before[:, ::-1] if pipeline == "flip" else before[::-1, ::-1]
    assert before.shape[:2] == (480, 640)
    assert np.abs(after - wanted).max() <= 4


def test_orientation_turns_the_map_too(source: Path, tmp_path: Path) -> None:
    data = source.read_bytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    body = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    turned = tmp_path / "in" / "a.jpg"
    turned.parent.mkdir()
    turned.write_bytes(data[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2) + body + data[2:])
    Run("auto_orient", turned, tmp_path / "out", engine="serial", quality=95)
    found = hdr_of((tmp_path / "out" / "a.jpg").read_bytes()) @ LUMA
    wanted = np.rot90(hdr_of(data), -1) @ LUMA
    assert np.percentile(np.abs(found - wanted) / wanted, 99) < 0.1


def test_tiles_and_engines_give_the_same_bytes(source: Path, tmp_path: Path) -> None:
    found = set()
    for engine, tile in (
        ("serial", "never"),
        ("serial", "always"),
        ("pipeline", "never"),
        ("processes", "always"),
    ):
        out = tmp_path / f"{engine}-{tile}"
        Run("rotate 90 | resize 50%", source, out, engine=engine, tile=tile, jobs=1)
        found.add((out / "a.jpg").read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("pipeline", ["brightness 10", "grayscale", "gaussian_blur 2", "pad 700x500"])
def test_a_map_that_would_be_false_is_dropped_and_reported(
    pipeline: str, source: Path, tmp_path: Path
) -> None:
    run = Run(pipeline, source, tmp_path, engine="serial")
    assert run.summary.dropped == {"gain map": 1}
    data = (tmp_path / "a.jpg").read_bytes()
    assert b"hdrgm" not in data
    assert b"GainMap" not in data


def test_a_map_is_dropped_where_that_is_asked_for(source: Path, tmp_path: Path) -> None:
    ran = imageloom("run", "resize 50%", source, tmp_path / "out", "--engine", "serial", "--gainmap", "drop")
    assert "lost" not in ran.stdout
    data = (tmp_path / "out" / "a.jpg").read_bytes()
    assert b"hdrgm" not in data
    assert Image.open(io.BytesIO(data)).size == (320, 240)


def test_a_damaged_map_is_dropped_and_reported(source: Path, tmp_path: Path) -> None:
    data = bytearray(source.read_bytes())
    data[-400:-200] = bytes(200)
    (tmp_path / "in.jpg").write_bytes(data)
    run = Run("flip", tmp_path / "in.jpg", tmp_path / "out", engine="serial", damage="warn")
    assert run.summary.done == 1
