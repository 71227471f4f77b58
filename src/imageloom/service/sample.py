"""The image that the examples of operators are made from. It is drawn, so it belongs to nobody else."""

from __future__ import annotations

import cv2
import numpy as np

WIDTH, HEIGHT = 240, 160


def sample() -> bytes:
    """A landscape as PNG: sky, sun, hills, a house with small details, and a little noise."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    sky = y[..., None] / HEIGHT
    image = (1 - sky) * np.array([74, 128, 196]) + sky * np.array([250, 214, 170])
    glow = np.exp(-((x - 178) ** 2 + (y - 44) ** 2) / 900)[..., None]
    image = image + glow * np.array([90, 70, 10])
    image[(x - 178) ** 2 + (y - 44) ** 2 < 15**2] = 255, 238, 178
    ridges = (
        (70, 16, 31, 0.0, (104, 126, 158)),
        (94, 12, 23, 1.3, (70, 108, 96)),
        (116, 8, 37, 2.1, (58, 92, 44)),
    )
    for base, height, length, shift, colour in ridges:
        above = base + height * np.sin(x / length + shift) + 3 * np.sin(x / 5 + shift)
        image[y > above] = colour
    image = np.ascontiguousarray(image)
    cv2.fillPoly(image, [np.array([[60, 92], [88, 68], [116, 92]])], (142, 52, 40))
    cv2.rectangle(image, (65, 92), (111, 134), (226, 214, 196), -1)
    for left in (70, 96):
        cv2.rectangle(image, (left, 99), (left + 10, 111), (58, 74, 92), -1)
        cv2.rectangle(image, (left, 99), (left + 10, 111), (250, 246, 236), 1)
    cv2.rectangle(image, (83, 114), (93, 134), (96, 58, 40), -1)
    for place in range(8, WIDTH, 16):
        cv2.line(image, (place, 136), (place, 150), (214, 204, 186), 2)
    cv2.line(image, (0, 141), (WIDTH, 141), (214, 204, 186), 2)
    image += np.random.default_rng(7).normal(0, 5, image.shape)
    done, data = cv2.imencode(".png", np.clip(image[..., ::-1], 0, 255).astype(np.uint8))
    assert done
    return bytes(data)
