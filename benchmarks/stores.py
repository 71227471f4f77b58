"""Requests in flight that size themselves against fixed numbers; S3 to S3 against a script of obstore and OpenCV.

    python -m benchmarks.stores [--photos FOLDER] [--count 1200] [--rounds 3] [--delay 0.02] [--url s3://BUCKET/PATH]

The store is OpenStack Swift on loopback, which takes its part of the same cores; a proxy adds the delay to each
request. S3 to S3 runs on any store that --url names, with the endpoint and the credentials of the environment.
Local folders have no requests to wait for, so the second row tells engine `threads` that its tasks do wait.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from statistics import median

import obstore
from obstore.store import S3Store
from testservers.proxy import FaultyProxy
from testservers.swift import Swift

from benchmarks.harness import (
    IMAGELOOM,
    Program,
    fresh,
    header,
    peer,
    photos_and_camera,
    report,
    time_once,
    workplace,
)
from imageloom.bench.work import link
from imageloom.driver.run import Driver
from imageloom.engines import Settings
from imageloom.engines.threads import Threads
from imageloom.model import Job, Output, Recipe
from imageloom.recipes.pipeline import Pipeline
from imageloom.records.ledger import Ledger

RESIZE, HEAVY = "resize 512x512", "median_blur 15"
SWEEP = (8, 16, 32, 64, 128)
UPLOADS = 32
"""At the same time, before the measurement."""
ROWS = ("script", "local", "sweep")


class Place:
    """A folder of a bucket: photos below `in`, outputs below `out`."""

    def __init__(self, address: str, photos: Path, ledger: Path) -> None:
        self.source, self.sink = f"{address}/in", f"{address}/out"
        self._ledger = ledger
        bucket, _, prefix = address.removeprefix("s3://").partition("/")
        self._store = S3Store(bucket, prefix=prefix, client_options={"allow_http": True})
        with ThreadPoolExecutor(UPLOADS) as pool:
            list(pool.map(self._upload, photos.iterdir()))

    def _upload(self, photo: Path) -> None:
        obstore.put(self._store, f"in/{photo.name}", photo.read_bytes())

    def clear(self, folder: str = "out") -> None:
        """No outputs, and no memory of any."""
        for page in obstore.list(self._store, folder):
            obstore.delete(self._store, [found["path"] for found in page])
        fresh(self._ledger.with_suffix(""))

    def run(self, name: str, *flags: str) -> Program:
        command = [*IMAGELOOM, "run", RESIZE, self.source, self.sink, "--ledger", str(self._ledger), "-q"]
        return Program(name, [*command, *flags], self.clear)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="small photos, all JPEG")
    parser.add_argument("--count", type=int, default=1200, help="photos, at the most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--delay", type=float, default=0.02, help="seconds that each request takes longer")
    parser.add_argument("--url", help="of a folder in a bucket: S3 to S3 alone")
    parser.add_argument("--row", choices=ROWS, action="append", help="one that is measured  [all]")
    given = parser.parse_args()
    rows = ("script",) if given.url else given.row or ROWS
    header()
    with workplace() as folder:
        photos = some(photos_and_camera(given.photos, Path(), folder)[0], folder / "some", given.count)
        with nullcontext() if given.url else Swift(folder / "swift") as swift:
            if swift:
                swift.make_bucket("bench")
                os.environ |= swift.environment
            place = Place(given.url or "s3://bench/photos", photos, folder / "run.db")
            if "script" in rows:
                ours = place.run("imageloom", f"-j{given.workers}")
                report("S3 to S3", "1.1", ours, script(place, given.workers), given.rounds)
            if "local" in rows:
                local(photos, folder / "out", given.rounds, given.workers)
            if swift and "sweep" in rows:
                with FaultyProxy(swift.port, delay=given.delay) as proxy:
                    os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
                    sweep(place, given.rounds, given.workers)
                os.environ |= swift.environment
            place.clear()
            place.clear("in")


def some(photos: Path, target: Path, count: int) -> Path:
    target.mkdir()
    for file in sorted(photos.iterdir())[:count]:
        link(file, target / file.name)
    return target


def sweep(place: Place, rounds: int, workers: int) -> None:
    """From and to a store that takes its time: no flag against the best fixed number.

    The best of a sweep was lucky too, so that it runs again beside ours.
    """
    flags = [f"-j{workers}"]
    fixed = {n: place.run(f"--in-flight {n}", *flags, "--in-flight", f"{n}") for n in SWEEP}
    times: dict[int, list[float]] = {n: [] for n in SWEEP}
    for _ in range(rounds):
        for n, program in fixed.items():
            times[n].append(time_once(program).seconds)
    found = {n: median(seconds) for n, seconds in times.items()}
    best = min(found, key=lambda n: found[n])
    report("S3 to S3 with a delay", "1.15", place.run("imageloom", *flags), fixed[best], rounds)
    print("\nThe sweep: " + ", ".join(f"{n}: {seconds:.2f} s" for n, seconds in found.items()) + "\n")


def local(photos: Path, out: Path, rounds: int, workers: int) -> None:
    """Work that no request waits for: a size that is searched for against as many threads as workers."""
    drive(Settings(workers, waits=True), photos, out)
    times = [
        [drive(settings, photos, out) for settings in (Settings(workers, waits=True), Settings(workers))]
        for _ in range(rounds)
    ]
    ratios = sorted(ours / theirs for ours, theirs in times)
    ours, theirs = (median(column) for column in zip(*times, strict=True))
    print(
        f"| local and CPU-bound | {workers} threads | 1.05 | "
        f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {ours:.2f} s, {theirs:.2f} s |",
        flush=True,
    )


def drive(settings: Settings, photos: Path, out: Path) -> float:
    """Seconds of a run on engine `threads`."""
    fresh(out)
    job = Job(str(photos), str(out), Recipe((Output(Pipeline(HEAVY).steps),)))
    began = time.perf_counter()
    with closing(Threads(settings)) as engine, Ledger(f"{out}.db") as ledger:
        summary = Driver(job, engine, ledger).run()
    if summary.failed:
        raise SystemExit(f"{summary.failed} failed")
    return time.perf_counter() - began


def script(place: Place, workers: int) -> Program:
    arguments = [place.source, place.sink, "512x512", f"{workers}", "32"]
    made = peer("obstore_opencv.py", *arguments, out=Path(), name="obstore and OpenCV")
    return made._replace(prepare=place.clear)


if __name__ == "__main__":
    main()
