"""Zarr, version 3: every piece a chunk, every chunk an object of its own, which any worker may write.

An image is an array (height, width) or (height, width, channels).
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from imageloom.codecs.piecewise import ordered
from imageloom.codecs.piecewise.pieces import Pieces, filled
from imageloom.errors import MissingExtra, unwritable
from imageloom.model import Pixels
from imageloom.system import folders

_HEAD = "zarr.json"


@lru_cache(maxsize=1)
def library() -> ModuleType:
    try:
        return importlib.import_module("zarr")
    except ImportError:
        raise MissingExtra("Zarr", "zarr") from None


@contextmanager
def _opened(path: Path, roots: tuple[str, ...] = ()) -> Iterator[int]:
    """A folder that is no link, nor the one that it lies in.

    Args:
        roots: folders beneath which it lies; none for no bounds.
    """
    folder = folders.open_file(str(path), os.O_RDONLY | os.O_DIRECTORY, roots=roots)
    try:
        yield folder
    finally:
        os.close(folder)


class Encoder(ordered.Encoder, frozen=True):
    """An array of chunks in zstd."""

    level: int = 3
    """Of zstd, 1 to 22."""
    tile: int = 512
    """Pixels of a chunk's side."""

    @property
    def pieces(self) -> Pieces:
        return Pieces(self.frame, self.tile, self.tile)

    def compress(self, pixels: Pixels) -> bytes:
        """A whole chunk, little-endian: what lies beyond the image repeats its last row and column."""
        chunk = filled(pixels, self.tile, self.tile)
        raw = chunk.astype(chunk.dtype.newbyteorder("<"), copy=False)
        data: bytes = importlib.import_module("numcodecs.zstd").Zstd(self.level).encode(raw)
        return data

    def create(self, path: Path) -> Writer:
        try:
            with _opened(path.parent) as folder:
                folders.write_folder(folder, path.name, {_HEAD: self._head()})
        except OSError as error:
            raise unwritable("the array cannot be made", error) from error
        return Writer(self, path)

    def _head(self) -> bytes:
        """The file that says what the array is, as the library writes it."""
        zarr = library()
        channels = () if self.frame.channels == 1 else (self.frame.channels,)
        store: dict[str, Any] = {}
        zarr.create_array(
            store=store,
            shape=(self.frame.height, self.frame.width, *channels),
            chunks=(self.tile, self.tile, *channels),
            dtype=self.frame.dtype,
            compressors=zarr.codecs.ZstdCodec(level=self.level),
            fill_value=0,
            dimension_names=("y", "x", "c")[: 2 + len(channels)],
        )
        head: bytes = store[_HEAD].to_bytes()
        return head

    def files(self, image: Pixels) -> dict[str, bytes]:
        """All files of the array of a whole image, by their paths within its folder."""
        made = {_HEAD: self._head()}
        for index in range(len(self.pieces)):
            x0, y0, x1, y1 = self.pieces.box(index)
            made[self._name(index)] = self.compress(image[y0:y1, x0:x1])
        return made

    def _name(self, index: int) -> str:
        """The path of a chunk within the array's folder."""
        row, column = divmod(index, self.pieces.columns)
        return f"c/{row}/{column}" + ("/0" if self.frame.channels > 1 else "")

    def write(self, path: Path, index: int, data: bytes, roots: tuple[str, ...] = ()) -> None:
        """Put a compressed piece into the array: whole or not at all, from any process.

        Args:
            roots: as of `ordered.Encoder.write`.

        Raises:
            UnwritableOutput: the disk did not take it.
        """
        if not 0 <= index < len(self.pieces):
            raise ValueError(f"there is no piece {index} among {len(self.pieces)}")
        above, _, name = self._name(index).rpartition("/")
        staged = f".{name}.{os.urandom(6).hex()}"
        try:
            with _opened(path, roots) as array:
                os.stat(_HEAD, dir_fd=array)  # a late worker does not bring back an array that was given up
                folder = folders.open_below(array, above, make=True)
            try:
                folders.write_in(folder, staged, data)
                os.replace(staged, name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                folders.remove(staged, folder)
                raise
            finally:
                os.close(folder)
        except OSError as error:
            raise unwritable("a chunk cannot be written", error) from error


class Writer:
    """The array that `Encoder.create` made. Its chunks need no order."""

    waiting = 0

    def __init__(self, encoder: Encoder, path: Path) -> None:
        self._encoder = encoder
        self._path = path
        self._missing = set(range(len(encoder.pieces)))

    @property
    def missing(self) -> list[int]:
        return sorted(self._missing)

    def put(self, index: int, data: bytes) -> None:
        self._encoder.write(self._path, index, data)
        self.written(index)

    def written(self, index: int) -> None:
        """Note that a worker has written a piece by itself."""
        self._missing.discard(index)

    def close(self) -> None:
        ordered.refuse_missing(self.missing, len(self._encoder.pieces))

    def abort(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
