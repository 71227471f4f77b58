"""What the service costs: CPU of its process tree for a job, with an open page and event streams, against `run`.

    python -m benchmarks.serve [--photos FOLDER] [--count 1200] [--pairs 9] [--streams 50] [--jobs 2]

Both do the same: sandboxed worker processes, durable outputs. Of `run`, the whole tree is counted but for what it
takes to do nothing, of the service the job alone: from its start to its end, with all that is shown meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.harness import IMAGELOOM, photos_and_camera, workplace

PIPELINE = "resize 512x512 | grayscale"
FLAGS = ("--engine", "processes", "--sandbox", "require", "--durable", "--links", "inside", "-q")
REFRESH = 1.0
"""Seconds between two requests of an open page while something changes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="small photos, all JPEG")
    parser.add_argument("--count", type=int, default=1200, help="number of photos of a job")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    with workplace() as folder:
        (folder / "camera").mkdir()
        found, _ = photos_and_camera(given.photos, folder / "camera", folder)
        (photos := folder / "chosen").mkdir()
        for path in sorted(found.iterdir())[: given.count]:
            shutil.copy(path, photos)
        (folder / "none").mkdir()
        shutil.copy(next(photos.iterdir()), folder / "none")
        ratios = []
        with Service(folder, given.jobs) as service, service.watched(given.streams):
            for _ in range(given.pairs):
                alone = run(photos, folder, given.jobs) - run(folder / "none", folder, given.jobs)
                served, seconds = service.job(photos)
                ratios.append(served / alone)
                print(
                    f"run {alone:.2f} s, service {served:.2f} s in {seconds:.1f} s: {ratios[-1]:.3f}",
                    flush=True,
                )
    print(
        f"| {given.count} photos, {given.streams} streams and a page, pairs | CPU of the service / CPU of run |"
    )
    print(
        f"| {given.pairs} | median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f} |"
    )


def run(source: Path, folder: Path, jobs: int) -> float:
    """CPU seconds of a whole run."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    flags = (*FLAGS, "-j", str(jobs), "--ledger", str(folder / f"{time.time_ns()}.db"))
    subprocess.run([*IMAGELOOM, "run", PIPELINE, str(source), str(folder / "out"), *flags], check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Service:
    """A running service, whose roots are the folder."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self._folder, self._state = folder, folder / "state"
        command = [*IMAGELOOM, "serve", "--root", str(folder), "--state", str(self._state), "-j", str(jobs)]
        self._process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1:0", "--sandbox", "require"], stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        self._port = int(self._process.stderr.readline().split(":")[2].partition("/")[0])
        self._token = (self._state / "operator.token").read_text().strip()
        self._tree = psutil.Process(self._process.pid)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)

    def job(self, source: Path) -> tuple[float, float]:
        """CPU seconds of the tree for a job, and how long it took."""
        shutil.rmtree(self._folder / "out", ignore_errors=True)
        name = f"bench-{time.time_ns()}"
        text = json.dumps({"source": str(source), "sink": str(self._folder / "out"), "recipe": PIPELINE})
        before, began = self._cpu(), time.monotonic()
        job = json.loads(self.ask("POST", "/api/v1/jobs", {"name": name, "text": text}))
        self.shown = f"/jobs/{job['id']}"
        while json.loads(self.ask("GET", f"/api/v1/jobs/{job['id']}"))["state"] != "done":
            time.sleep(0.5)
        self.shown = ""
        return self._cpu() - before, time.monotonic() - began

    @contextlib.contextmanager
    def watched(self, streams: int) -> Iterator[None]:
        """With event streams that are read, and a page that is open."""
        self.shown, is_over = "", threading.Event()
        threads = [threading.Thread(target=self._read, args=(is_over,), daemon=True) for _ in range(streams)]
        threads.append(threading.Thread(target=self._show, args=(is_over,), daemon=True))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            is_over.set()

    def _read(self, is_over: threading.Event) -> None:
        connection = self._begin("GET", "/api/v1/events", None)
        with contextlib.suppress(OSError, http.client.HTTPException), connection.getresponse() as answer:
            while not is_over.is_set() and answer.readline():
                pass

    def _show(self, is_over: threading.Event) -> None:
        while not is_over.wait(REFRESH):
            if self.shown:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    self.ask("GET", self.shown, accept="text/html")

    def ask(self, method: str, path: str, data: object = None, accept: str = "application/json") -> bytes:
        connection = self._begin(method, path, data, accept)
        with contextlib.closing(connection):
            return connection.getresponse().read()

    def _begin(
        self, method: str, path: str, data: object, accept: str = "application/json"
    ) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Accept": accept,
            "Content-Type": "application/json",
        }
        connection.request(method, path, None if data is None else json.dumps(data), headers)
        return connection

    def _cpu(self) -> float:
        total = 0.0
        for process in (self._tree, *self._tree.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
        return total


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
