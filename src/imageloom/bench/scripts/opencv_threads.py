"""What a person would write with OpenCV: SOURCE SINK WIDTHxHEIGHT WORKERS."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2

source, sink, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[4])
width, height = map(int, sys.argv[3].split("x"))
cv2.setNumThreads(1)
sink.mkdir(parents=True, exist_ok=True)


def convert(path: Path) -> None:
    image = cv2.imread(str(path))
    assert image is not None
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(sink / path.name), image, [cv2.IMWRITE_JPEG_QUALITY, 85])


with ThreadPoolExecutor(workers) as pool:
    list(pool.map(convert, source.iterdir()))
