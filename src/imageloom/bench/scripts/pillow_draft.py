"""What a person would write with Pillow for many photos: draft and a pool of processes.

SOURCE SINK WIDTHx[HEIGHT] WORKERS; without a height, that of the photo's shape.
"""

import multiprocessing
import sys
from pathlib import Path

from PIL import Image

source, sink, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[4])
width, height = (int(side or 0) for side in sys.argv[3].split("x"))


def convert(path: Path) -> None:
    image = Image.open(path)
    size = width, height or round(image.height * width / image.width)
    image.draft("RGB", size)
    image.resize(size).save(sink / path.name, quality=85)


if __name__ == "__main__":
    sink.mkdir(parents=True, exist_ok=True)
    with multiprocessing.Pool(workers) as pool:
        pool.map(convert, list(source.iterdir()))
