"""Opens one image: from a path, an address, bytes or an open file."""

from __future__ import annotations

import os
from typing import Any, Protocol

import numpy as np

from imageloom.codecs import interop
from imageloom.driver.validation import validated
from imageloom.errors import UsageError
from imageloom.interface import files
from imageloom.interface.arguments import address, limits_of, plain
from imageloom.interface.image import Image
from imageloom.interface.making import Origin
from imageloom.model import Damage, Decode, Limits, Recipe


class Readable(Protocol):
    """A binary file that is open for reading."""

    def read(self, size: int, /) -> bytes: ...


def open(
    source: str | os.PathLike[str] | bytes | Readable,
    *,
    page: int = 1,
    density: int = 0,
    decode: Decode = "safe",
    damage: Damage = "warn",
    limits: Limits | None = None,
) -> Image:
    """Open an image. Its header is read; its pixels are decoded when they are needed.

    Args:
        source: path or address of a file (`photo.jpg`, `s3://bucket/photo.jpg`), the bytes of a file, or an
            open binary file, which is read to its end.
        page: number of the page, from 1, for formats with pages (TIFF, PDF, HEIF, animations).
        density: pixels per inch at which documents are drawn (PDF, SVG); 0: the format's default.
        decode: how far the decoder may shrink the image before a resize: to twice the target size (`safe`),
            to the target size (`fast`), not (`exact`).
        damage: which damaged files are accepted: none (`refuse`), those whose pixels are all there (`warn`),
            all that can be decoded in part (`salvage`).
        limits: limits that are checked against the header; None: the usual ones.

    Raises:
        UsageError: an argument is invalid.
        MissingFile: there is no such file (also a FileNotFoundError).
        CorruptImage, UnsupportedImage: the file is no image that can be decoded.
        LimitExceeded: the image or its file is too large.
        UnreadableItem: the file cannot be read.
        StorageError: the storage cannot be used.
        MissingExtra: the library for the format or for the storage is not installed.
    """
    page, density = plain(page), plain(density)
    if not isinstance(page, int) or isinstance(page, bool) or page < 1:
        raise UsageError(f"page = {page!r}: it must be a whole number from 1")
    given: dict[str, Any] = {"decode": decode, "damage": damage, "density": density, "pages": page}
    recipe = validated(Recipe((), **given))
    limits = limits_of(limits)
    name = ""
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif hasattr(source, "read"):
        data = files.read_from(source, limits.max_file_size)
        name = str(getattr(source, "name", ""))
    else:
        if isinstance(source, np.ndarray) or interop.is_pil(source):
            raise UsageError(
                f"source is an image already: use Image.from_{'pil' if interop.is_pil(source) else 'array'}"
            )
        name = address("source", source)
        data = files.read(name, limits.max_file_size)
    return Image(Origin.of_file(name, data, page, recipe, limits))
