"""Zarr, version 3: reads any region of an array (height, width) or (height, width, channels)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from imageloom.codecs.piecewise.pieces import Pieces, check_box
from imageloom.codecs.piecewise.zarr import library
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Frame, Pixels


class Reader:
    """Reads regions of an array. It is thread-safe.

    Raises:
        CorruptImage: there is no array.
        UnsupportedImage: it is not an image.
        MissingExtra: zarr is not installed.
    """

    random = True

    def __init__(self, path: Path) -> None:
        zarr = library()
        try:
            self._array: Any = zarr.open_array(str(path), mode="r")
        except Exception as error:  # the library may raise any exception
            raise CorruptImage(f"the Zarr array cannot be opened: {error}") from None
        shape, dtype = self._array.shape, self._array.dtype.name
        if len(shape) not in (2, 3) or (len(shape) == 3 and not 1 <= shape[2] <= 4) or 0 in shape:
            raise UnsupportedImage(f"a Zarr array of shape {shape} is not an image")
        if dtype not in ("uint8", "uint16", "float32"):
            raise UnsupportedImage(f"Zarr of {dtype} is not supported")
        self.frame = Frame(shape[1], shape[0], shape[2] if len(shape) == 3 else 1, dtype)
        self.pieces = Pieces(self.frame, self._array.chunks[1], self._array.chunks[0])

    def read(self, x0: int, y0: int, x1: int, y1: int) -> Pixels:
        """The pixels of a box. Missing chunks have the array's fill value.

        Raises:
            CorruptImage: a chunk of it is damaged.
        """
        check_box(self.frame, x0, y0, x1, y1)
        try:
            pixels: Pixels = np.asarray(self._array[y0:y1, x0:x1])
        except Exception as error:  # the library may raise any exception
            raise CorruptImage(f"the Zarr array is damaged at {x0},{y0},{x1},{y1}: {error}") from None
        return pixels[:, :, 0] if pixels.ndim == 3 and self.frame.channels == 1 else pixels

    def close(self) -> None:
        """Does nothing: no file is open."""
