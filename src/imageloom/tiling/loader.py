"""Loads a large image whose pixels can be decoded only in order: into a raster, ahead of the tiles."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable
from pathlib import Path
from traceback import clear_frames
from typing import Protocol, cast

from imageloom import codecs
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import Metadata
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Box, Frame, Header, Pixels
from imageloom.recipes.plan import Plan
from imageloom.system.beneath import path_of
from imageloom.tiling.raster import Raster
from imageloom.tiling.readers import Reader, open_reader


def open_in_pieces(path: str, header: Header, damage: DamageLog | None = None) -> Reader | None:
    """A reader that decodes the file in pieces; None if the file can only be decoded as a whole."""
    if header.pages > 1:  # readers read files of one page
        return None
    try:
        return open_reader(Path(path), header.format, header.frame, damage)
    except UnsupportedImage:
        return None


def decoded(path: str, header: Header, luma: bool, scale: int, damage: DamageLog) -> Pixels:
    """The pixels of the file at a path, see `codecs.decode`."""
    with open(path, "rb") as file:
        if not header.scales:
            return codecs.decode(file.read(), header, luma=luma, scale=scale, damage=damage)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:  # most of it is not read
            return codecs.decode(cast("bytes", mapped), header, scale=scale, damage=damage)


class Decoder(Protocol):
    """Decodes the file of a large image, in this process or in another one."""

    def metadata(self) -> Metadata:
        """See `codecs.metadata_of`."""

    def in_pieces(self, damage: DamageLog) -> Reader | None:
        """A reader that decodes the file in pieces; None if the file can only be decoded as a whole."""

    def whole(self, frame: Frame, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        """See `codecs.decode`.

        Args:
            frame: frame of the decoded pixels.
        """

    def close(self) -> None:
        """Free its resources. Its readers are closed before."""


OpenDecoder = Callable[[int, Header], Decoder]
"""Makes the decoder of an open file."""


class FileDecoder:
    """Decodes a file in this process.

    Args:
        file: the file; it stays open while the decoder is used.
    """

    def __init__(self, file: int, header: Header) -> None:
        self._path, self._header = path_of(file), header

    def metadata(self) -> Metadata:
        return codecs.metadata_of(self._path, self._header.format, self._header.page)

    def in_pieces(self, damage: DamageLog) -> Reader | None:
        return open_in_pieces(self._path, self._header, damage)

    def whole(self, frame: Frame, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        return decoded(self._path, self._header, luma, scale, damage)

    def close(self) -> None:
        """Does nothing: it has no resources."""


class Loader(threading.Thread):
    """Decodes a file from top to bottom into a raster. It pauses if it is too far ahead.

    Args:
        decoder: decodes the file.
        reader: reads full rows in order; None to decode the file as a whole.
        room: maximum number of rows to decode in advance; 0 for no limit.
        wake: called when more rows are decoded, or on a failure.
        damage: where damage of the file is reported.
        memory: whether there is memory for the whole image, if its strips turn out to be damaged.
    """

    def __init__(
        self,
        decoder: Decoder,
        reader: Reader | None,
        plan: Plan,
        raster: Raster,
        wake: Callable[[], None],
        room: int,
        damage: DamageLog,
        memory: bool,
    ) -> None:
        super().__init__(name="loader", daemon=True)
        self.raster = raster
        self.rows = 0
        self.bounded = room > 0
        self._decoder = decoder
        self._reader = reader
        self._plan = plan
        self._wake = wake
        self._room = room
        self._damage = damage
        self._memory = memory
        self._asked = self._passed = 0
        self._failure: BaseException | None = None
        self._stopping = False
        self._turn = threading.Condition()
        self.start()

    def check(self) -> None:
        """Raise the exception with which decoding has failed, if any."""
        if self._failure:
            raise self._failure

    def wanted(self, row: int) -> None:
        """Note that rows up to this one are needed now."""
        with self._turn:
            self._asked = max(self._asked, row)
            self._turn.notify()

    def passed(self, row: int) -> None:
        """Note that rows up to this one are no longer needed."""
        with self._turn:
            self._passed = row
            self._turn.notify()

    def stop(self) -> None:
        with self._turn:
            self._stopping = True
            self._turn.notify()
        self.join()
        if self._reader:
            self._reader.close()

    def run(self) -> None:
        try:
            if self._reader is None:
                self._load_whole()
            else:
                self._load_strips(self._reader)
        except BaseException as error:  # otherwise the driver would wait forever
            clear_frames(error.__traceback__)  # they hold the pixels
            self._failure = error
        self._wake()

    def _load_whole(self) -> None:
        self.raster.write(Box.of(self._plan.decoded), self._decoded())
        self.rows = self._plan.decoded.height

    def _decoded(self) -> Pixels:
        plan = self._plan
        return self._decoder.whole(plan.decoded, plan.luma, plan.scale, self._damage)

    def _load_strips(self, reader: Reader) -> None:
        """Load strips. If one is damaged, the codec decodes the image, as it does without tiles."""
        frame = reader.frame
        whole: Pixels | None = None
        while self.rows < frame.height and self._has_room():
            bottom = min(frame.height, self.rows + reader.pieces.height)
            box = Box(0, self.rows, frame.width, bottom)
            if whole is None:
                try:
                    strip = reader.read(box.x0, box.y0, box.x1, box.y1)
                except CorruptImage:
                    if not self._memory:
                        raise
                    whole = self._decoded()
            if whole is not None:
                strip = whole[box.y0 : box.y1]
            self.raster.write(box, strip)
            self.rows = bottom
            self._wake()

    def _has_room(self) -> bool:
        with self._turn:
            while self.bounded and not self._stopping and self._is_far_ahead():
                self._turn.wait()
            return not self._stopping

    def _is_far_ahead(self) -> bool:
        return self.rows >= self._asked and self.rows - self._passed > self._room
