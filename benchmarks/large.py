"""One huge image in tiles, against libvips: time and memory; photos on one worker and on two.

    python -m benchmarks.large [--camera FOLDER] [--megapixels 350] [--pairs 3]

The image is a mosaic of the camera photos; without a folder of real ones, drawn ones are used.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import psutil

from benchmarks.harness import (
    IMAGELOOM,
    Program,
    fresh,
    header,
    peer,
    photos_and_camera,
    report,
    run_command,
    workplace,
)
from imageloom.codecs.piecewise import tiff
from imageloom.model import Frame, Pixels

AS_WIDE, NARROW = "0.0111", "0.2"
"""Where libvips cuts its kernel off: at 3 sigma as ours, 13 pixels for sigma 2, or by its default, 7 pixels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camera", type=Path, help="photos of many megapixels, all JPEG")
    parser.add_argument("--megapixels", type=int, default=350)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with workplace() as folder:
        camera = photos_and_camera(folder, given.camera, folder)[1]
        draw_mosaic(camera, given.megapixels, folder)
        measure(folder, given.pairs, given.workers)
        one_photo(camera, folder, given.pairs, given.workers)
        crops(camera, folder, given.pairs, given.workers)
        four_times(camera, given.megapixels, folder, given.workers)


def measure(folder: Path, pairs: int, workers: int) -> None:
    big_tiff, big_jpeg, out = folder / "mosaic.tif", folder / "mosaic.jpg", folder / "out"
    rows = (
        (
            "TIFF -> gaussian_blur 2 -> TIFF",
            "0.4",
            big_tiff,
            "gaussian_blur 2",
            "tiff",
            ("blur", "2", AS_WIDE),
        ),
        (
            "JPEG -> gaussian_blur 2 -> JPEG",
            "1.1",
            big_jpeg,
            "gaussian_blur 2",
            "jpeg",
            ("blur", "2", AS_WIDE),
        ),
        ("the same", "", big_jpeg, "gaussian_blur 2", "jpeg", ("blur", "2", NARROW)),
        ("TIFF -> canny 60 150 -> TIFF", "0.3", big_tiff, "grayscale | canny 60 150", "tiff", ("canny",)),
        ("TIFF -> resize 25% -> JPEG", "1.1", big_tiff, "resize 25%", "jpeg", ("resize", "0.25")),
        ("TIFF -> 4096 wide -> JPEG", "1.1", big_tiff, "resize 4096x", "jpeg", ("wide", "4096")),
    )
    header()
    for row, goal, source, pipeline, format, operation in rows:
        target = folder / ("vips.tif" if format == "tiff" else "vips.jpg")
        ours = tiled(source, out, pipeline, format, workers)
        name = "libvips, a narrower kernel" if NARROW in operation else "libvips"
        vips = peer("vips.py", str(source), str(target), *operation, out=folder / "none", name=name)
        os.environ["VIPS_CONCURRENCY"] = str(workers)
        report(row, goal, ours, vips, pairs)
    for row, goal, source, pipeline, format, _ in rows:
        if not goal:
            continue
        used = [proportional_memory(tiled(source, out, pipeline, format, workers)) for _ in range(2)]
        print(f"{row}: {statistics.median(used) / 1e6:.0f} MB, proportional set size of all processes")


def one_photo(camera: Path, folder: Path, pairs: int, workers: int) -> None:
    """Filters that take long, over one photo."""
    source = max(camera.iterdir(), key=lambda path: cv2.imread(str(path)).size)  # type: ignore[union-attr]
    pipeline = "median_blur 5 | bilateral 9 75 75"
    many, one = (tiled(source, folder / "out", pipeline, "jpeg", count) for count in (workers, 1))
    pixels = Frame.of(cv2.imread(str(source))).pixels  # type: ignore[arg-type]
    row = f"a photo of {pixels / 1e6:.0f} megapixels, {pipeline}, {workers} workers"
    report(row, "0.59", many, one._replace(name="1 worker"), pairs)


def crops(camera: Path, folder: Path, pairs: int, workers: int) -> None:
    """60 crops of 1.5 megapixels as PNG."""
    photos = sorted(camera.iterdir())
    (folder / "crops").mkdir()
    for number in range(60):
        photo = cv2.imread(str(photos[number % len(photos)]))
        assert photo is not None
        y, x = 97 * number % (photo.shape[0] - 1000), 193 * number % (photo.shape[1] - 1500)
        target = str(folder / "crops" / f"{number:02}.png")
        cv2.imwrite(target, photo[y : y + 1000, x : x + 1500], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    ours = run_command("gaussian_blur kernel=21", folder / "crops", folder / "out", f"-j{workers}")
    none = folder / "none"
    script = peer("opencv_blur.py", str(folder / "crops"), str(none), out=none, name="a serial OpenCV script")
    report("60 crops as PNG -> gaussian_blur kernel=21 -> PNG", "0.6", ours, script, pairs)


def four_times(camera: Path, megapixels: int, folder: Path, workers: int) -> None:
    """Memory of an image four times as large."""
    flags = ["--max-pixels", str(5 * megapixels * 10**6), "--max-file-size", str(10**11)]
    used: list[float] = []
    for size in (megapixels, 4 * megapixels):
        draw_mosaic(camera, size, folder, jpeg=False)
        program = tiled(folder / "mosaic.tif", folder / "out", "gaussian_blur 2", "tiff", workers)
        program = program._replace(command=[*program.command, *flags])
        used.append(statistics.median(proportional_memory(program) for _ in range(3)))
    print(f"four times as large: {used[1] / used[0]:.2f} of the memory ({used[1] / 1e6:.0f} MB; goal 1.1)")


def tiled(source: Path, out: Path, pipeline: str, format: str, workers: int) -> Program:
    flags = ["--ledger", f"{out}.db", "--format", format, "--quality", "90", f"-j{workers}"]
    command = [*IMAGELOOM, "run", pipeline, str(source), str(out), *flags]
    return Program("imageloom", command, lambda: fresh(out))


def proportional_memory(program: Program) -> int:
    """The largest sum of the proportional set sizes (PSS) of a program and its children, in bytes.

    Looked at every 20 ms in /proc/PID/smaps_rollup.
    """
    program.prepare()
    process = subprocess.Popen(program.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    most = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        root = psutil.Process(process.pid)
        while not done.is_set():
            try:
                family = [root, *root.children(recursive=True)]
                most = max(most, sum(_pss(p.pid) for p in family))
            except (psutil.Error, OSError):
                pass
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    code = process.wait()
    done.set()
    thread.join()
    if code:
        raise SystemExit(f"{program.name} failed with {code}")
    return most


def _pss(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


def draw_mosaic(camera: Path, megapixels: int, folder: Path, jpeg: bool = True) -> None:
    """A mosaic of photos, about 5:3, as tiled deflate TIFF of level 6, and as JPEG of quality 90."""
    width = round((megapixels * 1e6 * 5 / 3) ** 0.5)
    height = round(megapixels * 1e6 / width)
    mosaic: Pixels = np.zeros((height, width, 3), np.uint8)
    photos = sorted(camera.iterdir())
    turn, y = 0, 0
    while y < height:
        x, tallest = 0, 1 << 30
        while x < width:
            photo = cv2.imread(str(photos[turn % len(photos)]))
            assert photo is not None
            turn += 1
            part = photo[: height - y, : width - x]
            mosaic[y : y + part.shape[0], x : x + part.shape[1]] = part
            x, tallest = x + part.shape[1], min(tallest, part.shape[0])
        y += tallest
    if jpeg:
        cv2.imwrite(str(folder / "mosaic.jpg"), mosaic, [cv2.IMWRITE_JPEG_QUALITY, 90])
    rgb = cv2.cvtColor(mosaic, cv2.COLOR_BGR2RGB, mosaic)
    encoder = tiff.Encoder(Frame.of(rgb))

    def compress(index: int) -> bytes:
        x0, y0, x1, y1 = encoder.pieces.box(index)
        return encoder.compress(rgb[y0:y1, x0:x1])

    with encoder.create(folder / "mosaic.tif") as writer, ThreadPoolExecutor(os.cpu_count()) as pool:
        for index, data in enumerate(pool.map(compress, range(len(encoder.pieces)))):
            writer.put(index, data)


if __name__ == "__main__":
    main()
