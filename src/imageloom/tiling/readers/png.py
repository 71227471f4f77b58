"""Reads PNGs in strips in order. libvips gets only what determines the pixels, as OpenCV does for whole images."""

from __future__ import annotations

import os
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import cast

from msgspec.structs import replace

from imageloom import codecs
from imageloom.codecs.bits import MoreNeeded
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.png import END, Coded, coded, with_key
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Pixels
from imageloom.tiling.readers import vips
from imageloom.tiling.readers.files import RandomFile


class Reader:
    """Reads full rows from top to bottom, each once. It is not thread-safe.

    Raises:
        UnreadableItem: the file cannot be opened.
        CorruptImage: it cannot be decoded.
        UnsupportedImage: it is damaged, and only the codec can repair it.
        MissingExtra: pyvips is not installed.
    """

    random = False

    def __init__(self, path: Path, damage: DamageLog) -> None:
        library = vips.library()
        file = RandomFile(path)
        try:
            header = codecs.get("png").header(file.view())
        except MoreNeeded:
            raise CorruptImage("the file is cut off within its header") from None
        if damage.policy == "salvage":
            raise UnsupportedImage("PNG is salvaged as a whole")
        with file.mapped() as data:
            found = coded(cast("bytes", data), header, damage, is_checked=False)
        if found.rebuilt:
            raise UnsupportedImage("PNG is repaired as a whole")
        self._key = found.key
        stream = _Stream(file, found)
        source = library.SourceCustom()
        source.on_read(stream.read)
        source.on_seek(stream.seek)
        frame = header.frame
        self._strips = vips.Strips(source, replace(frame, channels=frame.channels - bool(found.key)))
        self.frame, self.pieces, self.close = frame, self._strips.pieces, self._strips.close

    def read(self, x0: int, y0: int, x1: int, y1: int) -> Pixels:
        """The next rows.

        Raises:
            CorruptImage: the rows are damaged.
        """
        rows = self._strips.read(x0, y0, x1, y1)
        return with_key(rows, self._key) if self._key else rows


class _Stream:
    """The bytes of `Coded.file`, read from the file when they are needed."""

    def __init__(self, file: RandomFile, found: Coded) -> None:
        self._file = file
        self._parts: tuple[bytes | slice, ...] = (found.head, *found.pixels, END)
        lengths = (part.stop - part.start if isinstance(part, slice) else len(part) for part in self._parts)
        self._starts = [0, *accumulate(lengths)]
        self._at = 0

    def read(self, length: int) -> bytes:
        """At most `length` bytes; none at the end."""
        if self._at >= self._starts[-1]:
            return b""
        index = bisect_right(self._starts, self._at) - 1
        part, skipped = self._parts[index], self._at - self._starts[index]
        length = min(length, self._starts[index + 1] - self._at)
        self._at += length
        if isinstance(part, slice):
            return self._file.read(part.start + skipped, length)
        return part[skipped : skipped + length]

    def seek(self, offset: int, whence: int) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._starts[-1]}[whence]
        return self._at
