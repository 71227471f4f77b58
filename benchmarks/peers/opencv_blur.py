"""A person's script, one image after the other: SOURCE TARGET; a Gaussian blur of 21 pixels, PNG to PNG."""

import sys
from pathlib import Path

import cv2

source, target = map(Path, sys.argv[1:3])
cv2.setNumThreads(1)
target.mkdir(parents=True)
for path in sorted(source.iterdir()):
    image = cv2.imread(str(path))
    assert image is not None
    cv2.imwrite(
        str(target / path.name), cv2.GaussianBlur(image, (21, 21), 0), [cv2.IMWRITE_PNG_COMPRESSION, 1]
    )
