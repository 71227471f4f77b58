"""What an expert would write with simplejpeg and OpenCV: SOURCE TARGET WIDTHxHEIGHT WORKERS."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import simplejpeg

source, target = map(Path, sys.argv[1:3])
width, height = map(int, sys.argv[3].split("x"))
cv2.setNumThreads(1)
target.mkdir(parents=True, exist_ok=True)


def do(path: Path) -> None:
    image = simplejpeg.decode_jpeg(path.read_bytes(), "RGB")
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    (target / path.name).write_bytes(simplejpeg.encode_jpeg(image, 85, "RGB", "420"))


with ThreadPoolExecutor(int(sys.argv[4])) as pool:
    list(pool.map(do, sorted(source.iterdir())))
