"""Large images that are damaged, or for which there is no room: named errors, and nothing half done is left."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imageloom.bench.samples import draw_photo
from imageloom.codecs import get
from imageloom.codecs.piecewise import tiff
from imageloom.errors import StorageError
from imageloom.model import Encoding, Frame
from imageloom.records.events import Failed
from program import Run, imageloom, names

BLUR = "gaussian_blur 2"
IMAGE = draw_photo(3, 700, 900)
OPTIONS: dict[str, Any] = {"tile": "always", "jobs": 2}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of few rows, so that small images have many."""
    monkeypatch.setattr("imageloom.tiling.assemble.PART_PIXELS", 700 * 64)
    monkeypatch.setattr("imageloom.driver.window.FIRST_PAUSE", 0.001)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with one image that is well."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "well.png").write_bytes(get("png").encode(draw_photo(1, 60, 50), Encoding(0)))
    return folder


def tiled_tiff() -> bytearray:
    return bytearray(tiff.Encoder(Frame.of(IMAGE), tile=64).encode(IMAGE))


def place_of(data: bytearray, tag: int) -> int:
    """Where the value of a tag of the one directory stands, or the place of its values."""
    at = int.from_bytes(data[4:8], "little")
    for entry in range(at + 2, at + 2 + 12 * int.from_bytes(data[at : at + 2], "little"), 12):
        if int.from_bytes(data[entry : entry + 2], "little") == tag:
            return entry + 8
    raise AssertionError(tag)


def too_high(data: bytearray) -> None:
    at = place_of(data, 257)
    data[at : at + 4] = (9000).to_bytes(4, "little")


def too_wide(data: bytearray) -> None:
    at = place_of(data, 256)
    data[at : at + 4] = (7000).to_bytes(4, "little")


def first_tile(data: bytearray) -> int:
    offsets = int.from_bytes(data[place_of(data, 324) :][:4], "little")
    return int.from_bytes(data[offsets : offsets + 4], "little")


def without_a_tile(data: bytearray) -> None:
    offsets = int.from_bytes(data[place_of(data, 324) :][:4], "little")
    data[offsets + 20 : offsets + 24] = bytes(4)


def with_a_tile_beyond(data: bytearray) -> None:
    offsets = int.from_bytes(data[place_of(data, 324) :][:4], "little")
    data[offsets + 20 : offsets + 24] = (len(data) - 3).to_bytes(4, "little")


def with_a_damaged_tile(data: bytearray) -> None:
    at = first_tile(data)
    data[at : at + 40] = b"\xff" * 40


DAMAGE: dict[str, tuple[Callable[[bytearray], None], str]] = {
    "too high": (too_high, "of its 1551 strips or tiles"),
    "too wide": (too_wide, "of its 1650 strips or tiles"),
    "missing tile": (without_a_tile, "tile 5 (row 0, column 5) is missing"),
    "tile beyond": (with_a_tile_beyond, "tile 5 (row 0, column 5) lies beyond the end"),
    "damaged tile": (with_a_damaged_tile, "tile 0 (row 0, column 0) is damaged"),
}


@pytest.mark.parametrize("engine", ["serial", "processes"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_tiff_fails_by_name_and_alone(
    photos: Path, out: Path, tmp_path: Path, damage: str, engine: str
) -> None:
    harm, message = DAMAGE[damage]
    data = tiled_tiff()
    harm(data)
    (photos / "bad.tif").write_bytes(data)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    run = Run(BLUR, photos, out, scratch=str(scratch), engine=engine, **OPTIONS)
    assert (run.done, run.failed) == (["well.png"], {"bad.tif": "CorruptImage"})
    assert message in run.reason("bad.tif")
    assert names(out) == ["well.png"]
    assert names(scratch) == []


@pytest.mark.parametrize("suffix", ["png", "jpeg", "webp"])
def test_a_cut_off_file_fails_by_name_and_alone(photos: Path, out: Path, suffix: str) -> None:
    data = get(suffix).encode(IMAGE, Encoding(90))
    (photos / f"cut.{suffix}").write_bytes(data[: len(data) // 2])
    run = Run(BLUR, photos, out, **OPTIONS)
    assert (run.done, run.failed) == (["well.png"], {f"cut.{suffix}": "CorruptImage"})
    assert names(out) == ["well.png"]
    assert all(event.result.started for event in run.events if isinstance(event, Failed))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte: who fills it takes from those beside it, so one item at a time."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "none", folder],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True, timeout=10)


def test_a_disk_that_fills_with_scratch(photos: Path, out: Path, small_disk: Path) -> None:
    (photos / "large.jpg").write_bytes(get("jpeg").encode(IMAGE, Encoding(90)))
    run = Run("gaussian_blur 2 | equalize", photos, out, scratch=str(small_disk), items_at_once=1, **OPTIONS)
    assert (run.done, run.failed) == (["well.png"], {"large.jpg": "DiskFull"})
    assert "No space left on device" in run.reason("large.jpg")
    assert f"scratch {small_disk}" in run.reason("large.jpg")
    assert names(out) == ["well.png"]
    assert names(small_disk) == []


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_disk_that_fills_with_outputs(
    photos: Path, tmp_path: Path, small_disk: Path, in_pieces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_pieces:
        monkeypatch.setattr("imageloom.model.image.LARGE", 100_000)
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    (photos / "large.tif").write_bytes(tiff.Encoder(Frame.of(noise), tile=64).encode(noise))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    options = OPTIONS | {
        "scratch": str(scratch),
        "items_at_once": 1,
        "sandbox": "off",
    }  # LARGE is of this process
    run = Run("invert", photos, small_disk / "out", **options)
    assert (run.done, run.failed) == (["well.png"], {"large.tif": "DiskFull"})
    assert "No space left on device" in run.reason("large.tif")
    assert names(small_disk / "out") == ["well.png"]
    assert names(scratch) == []


def test_scratch_over_the_limit_of_file_sizes(photos: Path, out: Path, tmp_path: Path) -> None:
    """A quota of the shell, or a file system without large files: the write itself fails."""
    import resource

    (photos / "large.jpg").write_bytes(get("jpeg").encode(draw_photo(2, 3000, 2000), Encoding(90)))
    done = imageloom(
        *("run", "gaussian_blur 2 | equalize", photos, out, "--tile", "always", "--engine", "processes"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000)),
    )
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert "large.jpg" in done.stderr
    assert names(out) == ["well.png"]


@pytest.mark.parametrize("scratch", ["/proc", "/dev/null"])
def test_a_scratch_folder_that_takes_no_file(photos: Path, out: Path, scratch: str) -> None:
    with pytest.raises(StorageError, match=rf"cannot write to {scratch}: .* \(--scratch\)"):
        Run(BLUR, photos, out, scratch=scratch, **OPTIONS)
    assert not out.exists()


def test_the_program_says_so_before_it_begins(photos: Path, out: Path) -> None:
    done = imageloom("run", BLUR, photos, out, "--tile", "always", "--scratch", "/proc")
    assert done.returncode == 4
    assert "cannot write to /proc" in done.stderr
    assert not out.exists()


def test_less_memory_than_a_tile_needs(photos: Path, out: Path) -> None:
    (photos / "large.jpg").write_bytes(get("jpeg").encode(IMAGE, Encoding(90)))
    run = Run(BLUR, photos, out, memory=1_000_000, **OPTIONS)
    assert (run.done, run.failed) == (["well.png"], {"large.jpg": "LimitExceeded"})
    assert "tile of 700x" in run.reason("large.jpg") or "encoding 700x900" in run.reason("large.jpg")
    assert "bytes of memory, over the limit of 1,000,000 (--memory)" in run.reason("large.jpg")
    assert names(out) == ["well.png"]


@pytest.mark.parametrize(
    ("pipeline", "format", "why"),
    [
        ("resize 50%", "jpeg", "a whole image of 700x900 RGB uint8 at one time, as resize "),
        (BLUR, "webp", "decoding 700x900 RGB uint8 from this webp, which is done as a whole, needs "),
    ],
)
def test_what_takes_the_whole_image_is_refused_before_it_begins(
    photos: Path, out: Path, pipeline: str, format: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / f"large.{format}").write_bytes(get(format).encode(IMAGE, Encoding(90)))
    monkeypatch.setattr("imageloom.tiling.large.Assembly", None)  # nothing is begun
    run = Run(pipeline, photos, out, memory=800_000, decode="exact", exclude=("well.png",), **OPTIONS)
    assert run.failed == {f"large.{format}": "LimitExceeded"}
    reason = run.reason(f"large.{format}")
    assert "over the limit of 800,000 (--memory)" in reason
    assert reason.startswith(("encoding", why))
    assert not names(out)


def test_the_plan_names_tiles_halos_and_memory(tmp_path: Path) -> None:
    (tmp_path / "wide.png").write_bytes(get("png").encode(np.zeros((6000, 8000), np.uint8), Encoding(0)))
    ran = imageloom("plan", "gaussian_blur 2 | canny", tmp_path / "wide.png", "--tile", "always")
    assert ran.returncode == 0, ran.stderr
    lines = [line.strip() for line in ran.stdout.splitlines()]
    assert "phase 1   gaussian_blur 2 | edge_candidates, then a measurement for hysteresis" in lines
    assert "phase 2   hysteresis" in lines
    # Strips of PNG's own height; the halos of 6 and 2 pixels, each aligned to 32.
    (first,) = (line for line in lines if "pixels of the phase's input" in line)
    write, read = re.findall(r"8000x(\d+)", first)
    assert int(read) > int(write) > 500
    assert int(read) - int(write) <= 4 * 32 + 31
    assert "encode    png, each tile separately, as soon as it is ready" in lines


def test_the_plan_names_what_cannot_be_tiled_and_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "deep.png").write_bytes(get("png").encode(np.zeros((500, 400), np.uint16), Encoding(0)))
    ran = imageloom("plan", "clahe", tmp_path / "deep.png", "--tile", "always", "--memory", "1M")
    assert ran.returncode == 0, ran.stderr
    assert "it cannot be tiled: clahe has tables of 65,536 levels" in ran.stdout
    assert re.search(
        r"^refused .* needs [\d,]+ bytes, over the limit of 1,000,000 \(--memory\)$", ran.stdout, re.M
    )
    ran = imageloom("plan", "clahe", tmp_path / "deep.png", "--tile", "never")
    assert "run       whole: --tile never" in ran.stdout
