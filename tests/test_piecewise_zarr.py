"""Zarr: chunks written one by one are the array that the zarr library reads, and its arrays are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr as library

from drawings import drawn
from imageloom.codecs.piecewise import zarr
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Frame
from imageloom.tiling.readers import open_reader
from imageloom.tiling.readers.zarr import Reader


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_round_trip(channels: int, dtype: str, tmp_path: Path) -> None:
    image = drawn(700, 300, channels, dtype)
    encoder = zarr.Encoder(Frame.of(image), tile=256)
    writer = encoder.create(tmp_path / "a.zarr")
    for index in range(len(encoder.pieces)):
        x0, y0, x1, y1 = encoder.pieces.box(index)
        encoder.write(tmp_path / "a.zarr", index, encoder.compress(image[y0:y1, x0:x1]))
        writer.written(index)
    writer.close()
    array = library.open_array(str(tmp_path / "a.zarr"), mode="r")
    assert array.chunks[:2] == (256, 256)
    assert np.array_equal(np.asarray(array[:]), image)
    reader = open_reader(tmp_path / "a.zarr", "zarr", Frame.of(image))
    assert reader.frame == Frame.of(image)
    assert np.array_equal(reader.read(100, 200, 600, 290), image[200:290, 100:600])


def test_arrays_of_others(tmp_path: Path) -> None:
    image = drawn(70, 50, 3, "uint16")
    library.create_array(store=str(tmp_path / "a"), data=image, chunks=(20, 30, 1))
    assert np.array_equal(Reader(tmp_path / "a").read(5, 6, 70, 50), image[6:50, 5:70])
    library.create_array(store=str(tmp_path / "b"), data=image[:, :, :1], chunks=(20, 30, 1))
    assert np.array_equal(Reader(tmp_path / "b").read(5, 6, 70, 50), image[6:50, 5:70, 0])


def test_what_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(CorruptImage):
        Reader(tmp_path / "nothing")
    for name, data in (("a", np.zeros(4, np.uint8)), ("b", np.zeros((4, 4), np.int64))):
        library.create_array(store=str(tmp_path / name), data=data)
        with pytest.raises(UnsupportedImage):
            Reader(tmp_path / name)


def test_damaged_chunk(tmp_path: Path) -> None:
    image = drawn(70, 50)
    encoder = zarr.Encoder(Frame.of(image))
    writer = encoder.create(tmp_path / "a")
    writer.put(0, b"\xff" * 100)
    writer.close()
    with pytest.raises(CorruptImage, match="damaged at 0,0,70,50"):
        Reader(tmp_path / "a").read(0, 0, 70, 50)
