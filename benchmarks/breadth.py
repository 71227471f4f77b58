"""Recipes against single runs, folded tables, processes against threads, and the cost of items that kill.

    python -m benchmarks.breadth [--photos FOLDER] [--camera FOLDER] [--pairs 5]

Without folders of real photos, drawn ones are used.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks.harness import (
    IMAGELOOM,
    PYTHON,
    Program,
    fresh,
    header,
    photos_and_camera,
    repeated,
    report,
    run_command,
    workplace,
)
from imageloom.api import process
from imageloom.model import Output, Recipe
from imageloom.recipes.pipeline import Pipeline
from imageloom.recipes.recipe import with_operators
from imageloom.records.events import Done, Event
from imageloom.testing.engines import HARMFUL

OUTPUTS = {"gray": "grayscale", "blur": "gaussian_blur 2", "edges": "grayscale | canny 100 200"}
TONES = "posterize 4 | gamma 1.2 | invert | brightness 10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="small photos, all JPEG")
    parser.add_argument("--camera", type=Path, help="photos of many megapixels, all JPEG")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with workplace() as folder:
        photos, camera = photos_and_camera(given.photos, given.camera, folder)
        measure(photos, camera, folder, given.pairs, given.workers)


def measure(photos: Path, camera: Path, folder: Path, pairs: int, workers: int) -> None:
    out, j = folder / "out", f"-j{workers}"
    many = repeated(photos, folder / "many", 10)
    header()
    for source, row in ((photos, "photos"), (many, "ten times as many")):
        ours = run_command("resize 512x512", source, out, j, "--engine", "processes")
        threads = run_command("resize 512x512", source, out, j, "--engine", "threads", name="threads")
        report(f"{row} -> 512x512 on processes", "1.15", ours, threads, pairs)
    report(
        "gray, blur and edges in one run", "0.6", recipe(photos, out, j), three_runs(photos, out, j), pairs
    )
    one = run_command("invert", camera, out, j, name="invert")
    report(f"camera photos: {TONES}", "1.05", run_command(TONES, camera, out, j), one, pairs)
    ratios = [rate(many, folder, workers, "") / rate(many, folder, workers, harm) for harm in HARMS * 2]
    ratio = 1 / statistics.median(ratios)
    print(f"\n1% of items crash or hang their worker: {ratio:.2f} of the rate for the others (goal: 0.9)")


HARMS = ("crash_on_red", "hang_on_red")


def recipe(photos: Path, out: Path, *flags: str) -> Program:
    outputs = [word for name, text in OUTPUTS.items() for word in ("--output", f"{name}={text}")]
    command = [*IMAGELOOM, "run", *outputs, str(photos), str(out), "--ledger", f"{out}.db", *flags]
    return Program("imageloom", command, lambda: fresh(out))


def three_runs(photos: Path, out: Path, *flags: str) -> Program:
    """The three pipelines in three programs, one after the other."""
    lines = [
        [*IMAGELOOM, "run", text, str(photos), str(out / name), "--ledger", f"{out}.db", *flags]
        for name, text in OUTPUTS.items()
    ]
    script = f"import subprocess\nfor line in {lines!r}:\n    subprocess.run(line, check=True)"
    return Program("three runs", [PYTHON, "-c", script], lambda: fresh(out))


def rate(photos: Path, folder: Path, workers: int, harm: str) -> float:
    """Good items a second until the last good one is done, with 1% of red ones among them.

    Args:
        harm: the operator that is harmed by red; none: red ones are as good as others.
    """
    mixed, out = folder / "mixed", folder / "out"
    if not mixed.exists():
        repeated(photos, mixed, 1)
        red = np.zeros((533, 400, 3), np.uint8)
        red[:, :, 2] = 255
        names = sorted(os.listdir(mixed))
        for name in names[::100]:
            cv2.imwrite(str(mixed / f"{name}-red.png"), red)
    fresh(out)
    loaded = with_operators(Recipe(()), [HARMFUL])
    steps = Pipeline(f"{harm} | resize 512x512" if harm else "resize 512x512").steps
    last = began = time.perf_counter()
    done = 0

    def listen(event: Event) -> None:
        nonlocal last, done
        if isinstance(event, Done) and not event.result.key.endswith("-red.png"):
            last, done = time.perf_counter(), done + 1

    process(
        Recipe((Output(steps),), operators=loaded.operators),
        mixed,
        out,
        engine="processes",
        jobs=workers,
        timeout=2,
        ledger=f"{out}.db",
        listeners=[listen],
    )
    return done / (last - began)


if __name__ == "__main__":
    main()
