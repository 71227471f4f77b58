"""Drawn sample photos, for the demo, tests and benchmarks."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from imageloom.codecs import get
from imageloom.model import Encoding, Pixels


def draw_photo(seed: int, width: int = 400, height: int = 533) -> Pixels:
    """Draw a landscape with sensor noise, which compresses about like a photo.

    Returns:
        RGB pixels (height, width, 3), uint8. The same arguments give the same pixels.
    """
    random = np.random.default_rng(seed)
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    top, bottom = random.uniform(40, 255, (2, 1, 1, 3)).astype(np.float32)
    image = np.broadcast_to(top * (1 - y) + bottom * y, (height, width, 3)).copy()
    sun = (int(random.uniform(0.1, 0.9) * width), int(random.uniform(0.1, 0.4) * height))
    cv2.circle(image, sun, max(2, width // 12), (255, 240, 200), -1, cv2.LINE_AA)
    x = np.arange(width)
    for hill in range(4):
        waves = random.uniform(0.5, 3, (3, 1)) * (2 + 2 * hill)
        rise = np.sin(waves * x / width + random.uniform(0, 6, (3, 1))).sum(0) * height * 0.04
        ridge = (height * (0.45 + 0.13 * hill) + rise).astype(np.int32)
        outline = np.concatenate([np.stack([x, ridge], 1), [[width, height], [0, height]]]).astype(np.int32)
        cv2.fillPoly(image, [outline], random.uniform(20, 200, 3).tolist(), cv2.LINE_AA)
    grain = random.normal(0, 1, (height, width, 1)).astype(np.float32)
    image += 8 * cv2.GaussianBlur(grain, (0, 0), 1.0)[:, :, None] * 2
    photo: Pixels = np.clip(image, 0, 255).astype(np.uint8)
    return photo


def draw_photos(folder: str | os.PathLike[str], count: int) -> None:
    """Draw `count` JPEG photos into a folder, in portrait and landscape format. Existing files are kept."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        file = path / f"photo-{number:04}.jpg"
        if not file.exists():
            size = (400, 533) if number % 3 else (500, 375)
            file.write_bytes(get("jpeg").encode(draw_photo(number, *size), Encoding(90)))
