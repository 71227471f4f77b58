"""A watched local folder: seconds from when a photo is there until its output is, and what an idle watch costs.

    python -m benchmarks.watch [--photos FOLDER] [--count 400] [--rate 20] [--engine threads]

Without a folder of real photos, drawn ones are used. Half of them are renamed into the folder, half are written
there at once. The clock runs from the rename, or from when the writer has closed the file, to the moment at which
the output is seen under its name by one who looks every millisecond: settling and all notifications included.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from benchmarks.harness import IMAGELOOM, photos_and_camera, workplace

IDLE = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="small photos, all JPEG")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--rate", type=float, default=20.0, help="files each second")
    parser.add_argument("--engine", default="threads")
    given = parser.parse_args()
    with workplace() as folder:
        (folder / "camera").mkdir()
        photos, _ = photos_and_camera(given.photos, folder / "camera", folder)
        files = [path.read_bytes() for path in sorted(photos.iterdir())[:200]]
        (folder / "in").mkdir()
        command = [*IMAGELOOM, "watch", "resize 512x512", str(folder / "in"), str(folder / "out"), "--json"]
        flags = ["--engine", given.engine, "--ledger", str(folder / "ledger.db"), "-q"]
        with (
            open(folder / "said", "wb") as said,
            subprocess.Popen([*command, *flags], stdout=said) as watch,
        ):
            while not (folder / "out").exists():
                time.sleep(0.01)
            time.sleep(1)
            cpu = cpu_seconds(watch.pid)
            time.sleep(IDLE)
            idle = (cpu_seconds(watch.pid) - cpu) / IDLE
            seconds = sorted(measure(folder, files, given.count, given.rate))
            watch.send_signal(signal.SIGTERM)
            watch.wait(60)
        lines = map(json.loads, (folder / "said").read_text().splitlines())
        own = next(line for line in lines if line["event"] == "latency")
    measured = ", ".join(f"{name} {at(seconds, part):.3f}" for name, part in (("p50", 50), ("p95", 95)))
    print(
        f"| {given.count} photos, {given.rate:g} a second, engine {given.engine} | settled -> output there, s |"
    )
    print(f"| seen from outside (goal: p95 0.5) | {measured}, max {seconds[-1]:.3f} |")
    print(f"| as it says itself | p50 {own['p50']:.3f}, p95 {own['p95']:.3f}, max {own['max']:.3f} |")
    print(f"| one core's share while nothing comes | {100 * idle:.1f}% |")


def measure(folder: Path, files: list[bytes], count: int, rate: float) -> list[float]:
    """Seconds for each photo."""
    came: dict[str, float] = {}
    seconds: list[float] = []
    sink = folder / "out"

    def look() -> None:
        while len(seconds) < count:
            for name, moment in list(came.items()):
                if os.path.exists(sink / name):
                    seconds.append(time.perf_counter() - moment)
                    del came[name]
            time.sleep(0.001)

    looking = threading.Thread(target=look)
    looking.start()
    began = time.perf_counter()
    for number in range(count):
        time.sleep(max(0.0, began + number / rate - time.perf_counter()))
        path = folder / "in" / f"{number}.jpg"
        if number % 2:
            (folder / "part").write_bytes(files[number % len(files)])
            (folder / "part").rename(path)
        else:
            path.write_bytes(files[number % len(files)])
        came[path.name] = time.perf_counter()
    looking.join(60)
    return seconds


def at(in_order: list[float], part: int) -> float:
    return in_order[min(len(in_order) - 1, len(in_order) * part // 100)]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
