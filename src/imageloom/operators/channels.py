"""The channels of an image: colours, alpha, and extra samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from imageloom.model import Pixels


def split(image: Pixels, extra: int) -> list[Pixels]:
    """The image without its extra samples, and each extra sample as a gray image; contiguous."""
    count = image.shape[2] - extra
    main = image[:, :, 0] if count == 1 else image[:, :, :count]
    bands = (image[:, :, band] for band in range(count, count + extra))
    return [np.ascontiguousarray(part) for part in (main, *bands)]


def shown(image: Pixels, extra: int) -> Pixels:
    """The image without its extra samples."""
    return split(image, extra)[0] if extra else image


def colour(image: Pixels, extra: int = 0) -> Pixels:
    """The image without its alpha and its extra samples: (h, w) or (h, w, 3), contiguous."""
    image = shown(image, extra)
    if image.ndim == 2 or image.shape[2] == 3:
        return image
    return np.ascontiguousarray(image[:, :, 0] if image.shape[2] == 2 else image[:, :, :3])


def premultiplied(image: Pixels, alpha: Pixels, function: Callable[[Pixels], Pixels]) -> Pixels:
    """Multiply colour by alpha, filter, and divide by alpha: transparent pixels do not affect their neighbours."""
    top = 1.0 if image.dtype == np.float32 else float(np.iinfo(image.dtype).max)
    share: Pixels = alpha.astype(np.float32) / np.float32(top)
    rgb: Pixels = colour(image).astype(np.float32)
    weights = share if rgb.ndim == 2 else share[:, :, None]
    blurred = function(rgb * weights)
    cover = function(share)
    divisor = np.maximum(cover, np.float32(1e-6))
    rgb = blurred / (divisor if blurred.ndim == 2 else divisor[:, :, None])
    rgb = saturate(np.where((cover if rgb.ndim == 2 else cover[:, :, None]) > 1e-6, rgb, 0), image.dtype)
    return with_alpha(rgb, saturate(cover * np.float32(top), image.dtype))


def with_alpha(image: Pixels, alpha: Pixels) -> Pixels:
    return np.dstack((image, alpha))


def saturate(values: Pixels, dtype: Any) -> Pixels:
    """`values` rounded and clipped to the range of `dtype`."""
    if dtype == np.float32:
        return values.astype(np.float32, copy=False)
    rounded: Pixels = np.rint(np.clip(values, 0, np.iinfo(dtype).max)).astype(dtype)
    return rounded
