"""What a person would write with Pillow for large photos: draft and a pool of processes.

SOURCE SINK WIDTH WORKERS
"""

import multiprocessing
import sys
from pathlib import Path

from PIL import Image

source, sink, width, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])


def convert(path: Path) -> None:
    image = Image.open(path)
    height = round(image.height * width / image.width)
    image.draft("RGB", (width, height))
    image.resize((width, height)).save(sink / path.name, quality=85)


if __name__ == "__main__":
    sink.mkdir(parents=True, exist_ok=True)
    with multiprocessing.Pool(workers) as pool:
        pool.map(convert, list(source.iterdir()))
