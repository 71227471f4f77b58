"""What a person waits for before anything happens.

python -m benchmarks.startup [--pairs 21]
"""

from __future__ import annotations

import argparse
from statistics import median

from benchmarks.harness import IMAGELOOM, PYTHON, Program, alternate, header, report, run_command, workplace
from imageloom.bench.samples import draw_photos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=21)
    pairs = parser.parse_args().pairs
    nothing = Program("python -c pass", [PYTHON, "-c", "pass"])
    version, bare = alternate(Program("version", [*IMAGELOOM, "--version"]), nothing, pairs)
    more = median(a.seconds - b.seconds for a, b in zip(version, bare, strict=True))
    print(f"imageloom --version: {more:.3f} s more than python -c pass (goal: at most 0.1)\n")
    with workplace() as folder:
        draw_photos(folder / "one", 1)
        header()
        opencv = Program('python -c "import cv2"', [PYTHON, "-c", "import cv2"])
        ours = run_command("resize 512x512", folder / "one", folder / "out")
        report("one small photo", "2.0", ours, opencv, pairs)


if __name__ == "__main__":
    main()
