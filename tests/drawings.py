"""Images that tests draw for themselves: smooth enough to be compressed, with edges and some noise."""

from __future__ import annotations

import numpy as np

from imageloom.model import Pixels


def drawn(width: int, height: int, channels: int = 3, dtype: str = "uint8") -> Pixels:
    """Waves, bars and noise: an array (height, width) or (height, width, channels)."""
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    noise = np.random.default_rng(width).random((height, width), np.float32)
    planes = [
        0.4
        + 0.3 * np.sin(x / (9 + 4 * c)) * np.cos(y / (11 + 3 * c))
        + 0.2 * ((x + y) // 23 % 2)
        + 0.1 * noise
        for c in range(channels)
    ]
    image = planes[0] if channels == 1 else np.dstack(planes)
    if dtype == "float32":
        return image.astype(np.float32)
    return (image * np.iinfo(dtype).max).astype(dtype)
