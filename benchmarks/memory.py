"""Memory does not grow with the number of items.

python -m benchmarks.memory [--items 100000]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.harness import run_command, time_once, workplace
from imageloom.bench.samples import draw_photo
from imageloom.codecs import get
from imageloom.model import Encoding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    most = parser.parse_args().items
    with workplace() as folder:
        data = get("jpeg").encode(draw_photo(0, 64, 48), Encoding(90))
        few, many = (fill(folder / str(count), data, count) for count in (most // 100, most))
        used = [time_once(run_command("resize 32x32", source, folder / "out")) for source in (few, many)]
        for count, usage in zip((most // 100, most), used, strict=True):
            print(f"{count:>7} items: {usage.resident / 1e6:.1f} MB, {usage.seconds:.2f} s")
        print(f"ratio {used[1].resident / used[0].resident:.2f} (goal: at most 1.3)")


def fill(folder: Path, data: bytes, count: int) -> Path:
    """A folder of hard links to one small photo; a thousand to a file, as file systems bound them."""
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:06}.jpg"
        if number % 1000 == 0:
            path.write_bytes(data)
            first = path
        else:
            os.link(first, path)
    return folder


if __name__ == "__main__":
    main()
