"""Many small photos and a few large ones, against what a person would write.

    python -m benchmarks.photos [--photos FOLDER] [--camera FOLDER] [--pairs 7]

Without folders of real photos, drawn ones are used.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from benchmarks.harness import (
    Program,
    header,
    peer,
    photos_and_camera,
    repeated,
    report,
    run_command,
    time_once,
    workplace,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="small photos, all JPEG")
    parser.add_argument("--camera", type=Path, help="photos of many megapixels, all JPEG")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with workplace() as folder:
        photos, camera = photos_and_camera(given.photos, given.camera, folder)
        measure(photos, camera, folder, given.pairs, given.workers)


def measure(photos: Path, camera: Path, folder: Path, pairs: int, workers: int) -> None:
    out, theirs = folder / "out", folder / "theirs"
    many, large = repeated(photos, folder / "many", 10), repeated(camera, folder / "large", 4)
    j = f"-j{workers}"

    def script(name: str, source: Path) -> Program:
        arguments = (str(source), str(theirs), "512x512", str(workers))
        return peer(f"{name}_threads.py", *arguments, out=theirs, name=f"{name}, threads")

    header()
    resize = "resize 512x512"
    for name, few_goal, many_goal in (("opencv", "0.95", "0.90"), ("simplejpeg", "1.00", "0.97")):
        ours = run_command(resize, photos, out, j)
        report("photos -> 512x512 JPEG", few_goal, ours, script(name, photos), pairs)
        ours = run_command(resize, many, out, j)
        report("ten times as many", many_goal, ours, script(name, many), max(3, pairs // 2))
    serial = run_command(resize, many, out, "--engine", "serial", name="serial")
    report("ten times as many, 2 workers", "0.52", run_command(resize, many, out, j), serial, 3)
    pillow = peer(
        "pillow_draft.py",
        str(large),
        str(theirs),
        "512x",
        str(workers),
        out=theirs,
        name="Pillow, draft, pool",
    )
    for decode, goal in (("safe", "1.2"), ("fast", "1.0")):
        ours = run_command("resize 512x", large, out, j, "--decode", decode)
        report(f"camera photos -> 512 wide, {decode}", goal, ours, pillow, pairs)
    for decode in ("safe", "fast"):
        values = sorted(psnr(camera, folder, decode))
        print(f"\nPSNR of --decode {decode}: median {median(values):.1f} dB, least {values[0]:.1f}")


def psnr(camera: Path, folder: Path, decode: str) -> list[float]:
    """Peak signal to noise of the resized camera photos against a full decode, in dB, losslessly written."""
    for mode in (decode, "exact"):
        time_once(run_command("resize 512x", camera, folder / mode, "--decode", mode, "--format", "png"))
    return [
        float(
            cv2.PSNR(
                np.asarray(cv2.imread(str(path))), np.asarray(cv2.imread(str(folder / "exact" / path.name)))
            )
        )
        for path in sorted((folder / decode).iterdir())
    ]


if __name__ == "__main__":
    main()
