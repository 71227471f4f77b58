"""What holds of every reader, and the libraries that are loaded only where they are needed."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drawings import drawn
from imageloom.codecs.piecewise import jpeg, tiff, zarr
from imageloom.errors import CorruptImage, UnreadableItem, UnsupportedImage
from imageloom.model import Frame
from imageloom.tiling.readers import open_reader

OPTIONAL = ("imagecodecs", "pyvips", "tifffile", "zarr")


def python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_libraries_are_loaded_late() -> None:
    code = "import sys, imageloom.tiling.readers; print(sorted(set(sys.argv[1:]) & set(sys.modules)))"
    assert python(code, *OPTIONAL, "simplejpeg") == "[]\n"


WITHOUT = """
import sys
from pathlib import Path
for name in sys.argv[3:]:
    sys.modules[name] = None
from imageloom.errors import MissingExtra
from imageloom.model import Frame
from imageloom.tiling.readers import open_reader
try:
    open_reader(Path(sys.argv[2]), sys.argv[1], Frame(64, 48, 3))
except MissingExtra as error:
    print(error)
"""


@pytest.mark.parametrize(("format", "extra"), [("tiff", "tiff"), ("png", "tiles"), ("zarr", "zarr")])
def test_missing_libraries_are_named(format: str, extra: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    said = python(WITHOUT, format, str(tmp_path / "a"), *OPTIONAL)
    assert said.endswith(f"needs an extra that is not installed: pip install 'imageloom[{extra}]'\n")


@pytest.mark.parametrize("format", ["jpeg", "tiff", "png"])
def test_file_that_is_not_there(format: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableItem, match="No such file"):
        open_reader(tmp_path / "nothing", format, Frame(64, 48, 3))


@pytest.mark.parametrize("format", ["jpeg", "tiff", "png"])
@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff", b"II*\0\x08\0\0\0"])
def test_files_that_are_no_images(format: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(CorruptImage):
        open_reader(tmp_path / "a", format, Frame(64, 48, 3))


@pytest.mark.parametrize("channels", [3, 4])
def test_a_name_with_brackets_is_a_name(channels: int, tmp_path: Path) -> None:
    image = drawn(300, 200, channels)
    Image.fromarray(image).save(tmp_path / "a.png[page=1]", "png")
    reader = open_reader(tmp_path / "a.png[page=1]", "png", Frame.of(image))
    assert np.array_equal(np.concatenate((reader.read(0, 0, 300, 70), reader.read(0, 70, 300, 200))), image)


@pytest.mark.parametrize("format", ["webp", "avif", "gif", "bmp", "pnm"])
def test_other_formats_are_read_as_a_whole(format: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedImage, match=f"{format} cannot be read in pieces"):
        open_reader(tmp_path / "a", format, Frame(64, 48, 3))


@pytest.mark.parametrize("format", ["jpeg", "tiff", "zarr"])
def test_threads_read_at_once(format: str, tmp_path: Path) -> None:
    image = drawn(900, 800)
    frame = Frame.of(image)
    encoder = {
        "jpeg": jpeg.Encoder(frame),
        "tiff": tiff.Encoder(frame, tile=64),
        "zarr": zarr.Encoder(frame, tile=64),
    }[format]
    writer = encoder.create(tmp_path / "a")
    for index in range(len(encoder.pieces)):
        x0, y0, x1, y1 = encoder.pieces.box(index)
        writer.put(index, encoder.compress(image[y0:y1, x0:x1]))
    writer.close()
    reader = open_reader(tmp_path / "a", format, frame)
    assert reader.random
    boxes = [(x, y, x + 130, y + 130) for y in range(0, 660, 60) for x in range(0, 760, 60)]
    whole = reader.read(0, 0, 900, 800)
    with ThreadPoolExecutor(8) as pool:
        for (x0, y0, x1, y1), found in zip(
            boxes, pool.map(lambda box: reader.read(*box), boxes), strict=True
        ):
            assert np.array_equal(found, whole[y0:y1, x0:x1])
    for box in ((0, 0, 901, 10), (5, 5, 5, 10), (-1, 0, 10, 10)):
        with pytest.raises(ValueError, match="is not within"):
            reader.read(*box)
    reader.close()


def test_large_is_a_matter_of_size_alone() -> None:
    assert not Frame(4_000, 4_000, 3).is_large
    assert Frame(4_000, 4_001, 1).is_large
