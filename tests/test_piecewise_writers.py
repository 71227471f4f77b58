"""What holds of every encoder: its bytes depend on the pixels alone, and a file is complete or not there."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from drawings import drawn
from imageloom.codecs.piecewise import jpeg, png, tiff, zarr
from imageloom.codecs.piecewise.ordered import Encoder
from imageloom.errors import UnwritableOutput
from imageloom.model import Frame
from imageloom.tiling.readers import open_reader

FRAME = Frame(600, 3900, 3)
ENCODERS = {
    "jpeg": jpeg.Encoder(FRAME),
    "png": png.Encoder(FRAME),
    "tiff": tiff.Encoder(FRAME),
    "tiff-zstd": tiff.Encoder(FRAME, compression="zstd"),
    "tiff-jpeg": tiff.Encoder(FRAME, compression="jpeg"),
    "zarr": zarr.Encoder(FRAME),
}
FILES = [name for name in ENCODERS if name != "zarr"]


@pytest.fixture(scope="module")
def image() -> Any:
    return drawn(FRAME.width, FRAME.height)


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return ENCODERS[request.param]


def compressed(encoder: Encoder, image: Any) -> list[bytes]:
    boxes = map(encoder.pieces.box, range(len(encoder.pieces)))
    return [encoder.compress(image[y0:y1, x0:x1]) for x0, y0, x1, y1 in boxes]


def contents(path: Path) -> dict[str, bytes]:
    """All that was written, by relative name."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_pieces_cover_the_image_once(encoder: Encoder) -> None:
    seen = np.zeros((FRAME.height, FRAME.width), np.uint8)
    for index in range(len(encoder.pieces)):
        x0, y0, x1, y1 = encoder.pieces.box(index)
        seen[y0:y1, x0:x1] += 1
        assert index in encoder.pieces.touching(x0, y0, x1, y1)
    assert len(encoder.pieces) > 1
    assert (seen == 1).all()


def test_order_of_arrival_does_not_matter(encoder: Encoder, image: Any, tmp_path: Path) -> None:
    pieces = compressed(encoder, image)
    found = []
    for seed in range(5):
        order = list(range(len(pieces))) * (1 if seed == 0 else 2)
        if seed:
            random.Random(seed).shuffle(order)
        writer = encoder.create(tmp_path / str(seed))
        for index in order:
            writer.put(index, pieces[index])
        assert writer.missing == []
        assert writer.waiting == 0
        writer.close()
        found.append(contents(tmp_path / str(seed)))
    assert all(other == found[0] for other in found)


def test_encoders_are_plain_data(encoder: Encoder, image: Any) -> None:
    copy = msgspec.msgpack.decode(msgspec.msgpack.encode(encoder), type=type(encoder))
    assert copy == encoder
    assert compressed(copy, image) == compressed(encoder, image)


def test_missing_pieces_are_named_and_nothing_is_left(encoder: Encoder, image: Any, tmp_path: Path) -> None:
    pieces = compressed(encoder, image)
    writer = encoder.create(tmp_path / "out")
    for index, data in enumerate(pieces):
        if index != 1:
            writer.put(index, data)
    assert writer.missing == [1]
    with pytest.raises(UnwritableOutput, match=f"1 of {len(pieces)} pieces are missing: 1"):
        writer.close()
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_aborted_in_a_with_statement(image: Any, tmp_path: Path) -> None:
    encoder = png.Encoder(FRAME)
    with (
        pytest.raises(UnwritableOutput, match="2 pieces are missing: 1"),
        encoder.create(tmp_path / "out") as writer,
    ):
        writer.put(0, compressed(encoder, image)[0])
    with pytest.raises(IndexError), encoder.create(tmp_path / "out"):
        compressed(encoder, image)[9]
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnwritableOutput):
        encoder.create(tmp_path / "file" / "out")


@pytest.mark.parametrize("name", FILES)
def test_disk_full(name: str, image: Any) -> None:
    encoder = ENCODERS[name]
    assert isinstance(encoder, jpeg.Encoder | png.Encoder | tiff.Encoder)
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(UnwritableOutput, match="No space left"),
    ):
        encoder.writer(full)


def test_piece_that_does_not_exist(encoder: Encoder, tmp_path: Path) -> None:
    writer = encoder.create(tmp_path / "out")
    with pytest.raises(ValueError, match="no piece 999"):
        writer.put(999, b"")
    writer.abort()


WRITE_AND_READ = """
import sys
from pathlib import Path
import numpy as np
from drawings import drawn
from imageloom.model import Frame
from imageloom.codecs.piecewise import jpeg, png, tiff, zarr
from imageloom.tiling.readers import open_reader

name, path, width, height = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
frame = Frame(width, height, 3)
encoder = {
    "jpeg": jpeg.Encoder(frame), "png": png.Encoder(frame),
    "tiff": tiff.Encoder(frame, level=1), "zarr": zarr.Encoder(frame, level=1),
}[name]
row = np.tile(drawn(500, 1024), (1, width // 500, 1))
writer = encoder.create(path)
for index in range(len(encoder.pieces)):
    x0, y0, x1, y1 = encoder.pieces.box(index)
    writer.put(index, encoder.compress(row[: y1 - y0, x0:x1]))
writer.close()
reader = open_reader(path, name, frame)
for index in range(len(reader.pieces)):
    reader.read(*reader.pieces.box(index))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak(name: str, path: Path, width: int, height: int) -> int:
    """Bytes of memory at most that a process needs to write an image in pieces and to read it again."""
    command = [sys.executable, "-c", WRITE_AND_READ, name, str(path), str(width), str(height)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=True, cwd=Path(__file__).parent
    )
    return int(done.stdout) << 10


@pytest.mark.parametrize("name", ["jpeg", "png", "tiff", "zarr"])
def test_memory_is_bounded(name: str, tmp_path: Path) -> None:
    """A hundred megapixels would take 300 MB."""
    path = tmp_path / name
    used = peak(name, path, 10_000, 10_240)
    mapped = path.stat().st_size if name == "png" else 0  # its pages are the kernel's, and can be dropped
    assert used - mapped < 250 << 20


@pytest.mark.long
@pytest.mark.parametrize("name", ["jpeg", "png", "tiff", "zarr"])
def test_memory_does_not_grow_with_the_height(name: str, tmp_path: Path) -> None:
    small = peak(name, tmp_path / "small", 6_000, 6_000)
    assert peak(name, tmp_path / "large", 6_000, 60_000) < 1.1 * small


def test_read_again(encoder: Encoder, image: Any, tmp_path: Path) -> None:
    writer = encoder.create(tmp_path / "out")
    for index, data in enumerate(compressed(encoder, image)):
        writer.put(index, data)
    writer.close()
    format = type(encoder).__module__.rpartition(".")[2]
    reader = open_reader(tmp_path / "out", format, FRAME)
    assert reader.frame == FRAME
    boxes = map(reader.pieces.box, range(len(reader.pieces)))
    lossless = format != "jpeg" and getattr(encoder, "compression", "") != "jpeg"
    for x0, y0, x1, y1 in boxes:
        pixels, expected = reader.read(x0, y0, x1, y1), image[y0:y1, x0:x1]
        if lossless:
            assert np.array_equal(pixels, expected)
        else:
            assert np.abs(pixels.astype(int) - expected).mean() < 12
    reader.close()
