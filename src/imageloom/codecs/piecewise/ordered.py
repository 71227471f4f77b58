"""Files that are written piece by piece: what compresses the pieces, and what puts them in their order."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from imageloom.codecs.piecewise.pieces import Pieces
from imageloom.errors import UnwritableOutput, unwritable
from imageloom.model import Frame, Pixels, Plain
from imageloom.system import folders


class Writer(Protocol):
    """What takes compressed pieces."""

    @property
    def missing(self) -> list[int]:
        """The pieces that have not arrived."""

    @property
    def waiting(self) -> int:
        """Bytes of the pieces that are held in memory because they came before their turn."""

    def put(self, index: int, data: bytes) -> None:
        """Take a piece; one that comes twice is written once.

        Raises:
            UnwritableOutput: the disk did not take it.
        """

    def written(self, index: int) -> None:
        """Note that a worker has put a piece in its place by itself, as `Encoder.write` does."""

    def close(self) -> None:
        """Finish the file.

        Raises:
            UnwritableOutput: pieces are missing, or the disk did not take the end.
        """

    def abort(self) -> None:
        """Leave nothing."""


class Ordered(ABC):
    """A file whose pieces arrive in any order and are written in theirs: its bytes are always the same.

    A piece that comes before its turn waits in memory; whoever hands out the work bounds how many can. In a
    `with` statement the file is closed at the end, or aborted by an error.
    """

    def __init__(self, count: int, file: BinaryIO, path: Path | None = None) -> None:
        self._count = count
        self._file = file
        self._path = path
        self._next = 0
        self._early: dict[int, bytes] = {}
        with self._writing():
            self._begin()

    @abstractmethod
    def _begin(self) -> None:
        """Write what comes before the pieces."""

    @abstractmethod
    def _append(self, data: bytes) -> None:
        """Write the next piece."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what comes after the pieces."""

    @property
    def missing(self) -> list[int]:
        return [index for index in range(self._next, self._count) if index not in self._early]

    @property
    def waiting(self) -> int:
        return sum(map(len, self._early.values()))

    def put(self, index: int, data: bytes) -> None:
        if not 0 <= index < self._count:
            raise ValueError(f"there is no piece {index} among {self._count}")
        if index < self._next or index in self._early:
            return
        self._early[index] = data
        with self._writing():
            while self._next in self._early:
                self._append(self._early.pop(self._next))
                self._next += 1

    def written(self, index: int) -> None:
        raise NotImplementedError("its pieces are put one after the other")

    def close(self) -> None:
        refuse_missing(self.missing, self._count)
        with self._writing():
            self._finish()
            if self._path is not None:
                self._file.close()

    def abort(self) -> None:
        self._early.clear()
        if self._path is not None:
            discard(self._file, self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.abort()
            return
        try:
            self.close()
        except BaseException:
            self.abort()
            raise

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unwritable("the file cannot be written", error) from error


def discard(file: BinaryIO, path: Path) -> None:
    """Remove a file that is open, whatever the disk says."""
    with suppress(OSError):
        path.unlink()
    with suppress(OSError):
        file.close()


def refuse_missing(missing: list[int], count: int) -> None:
    """Raise UnwritableOutput where pieces are missing, and name them."""
    if missing:
        named = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise UnwritableOutput(f"{len(missing)} of {count} pieces are missing: {named}")


class Encoder(Plain, frozen=True):
    """What compresses the pieces of a file: plain data, alike in every process."""

    frame: Frame

    @property
    def pieces(self) -> Pieces:
        raise NotImplementedError

    def compress(self, pixels: Pixels) -> bytes:
        """One piece, which ends where the image ends, as the writer takes it."""
        raise NotImplementedError

    def write(self, path: Path, index: int, data: bytes, roots: tuple[str, ...] = ()) -> None:
        """Put a piece in its place by itself, where the output is a folder.

        Args:
            path: of the output, which lies in a folder that is no link.
            roots: folders beneath which the output lies; none for no bounds.

        Raises:
            UnwritableOutput: the disk did not take it.
        """
        raise NotImplementedError

    def create(self, path: Path) -> Writer:
        """The writer of a new file.

        Raises:
            UnwritableOutput: it cannot be made.
        """
        raise NotImplementedError


class FileEncoder(Encoder, frozen=True):
    """An encoder of one file of bytes."""

    def writer(self, file: BinaryIO, path: Path | None = None) -> Ordered:
        """A writer into an open file, which it closes or removes where `path` says that it is its own."""
        raise NotImplementedError

    def create(self, path: Path) -> Ordered:
        try:
            file = folders.create(str(path))
        except OSError as error:
            raise unwritable("the file cannot be written", error) from error
        try:
            return self.writer(file, path)
        except BaseException:
            discard(file, path)
            raise

    def encode(self, image: Pixels) -> bytes:
        """The bytes of the file that the pieces of a whole image make."""
        file = io.BytesIO()
        with self.writer(file) as writer:
            for index in range(len(self.pieces)):
                x0, y0, x1, y1 = self.pieces.box(index)
                writer.put(index, self.compress(image[y0:y1, x0:x1]))
        return file.getvalue()
