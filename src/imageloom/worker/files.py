"""Questions about the file of a large image, which a decoding process answers: it has the file open."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from imageloom import codecs
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import Metadata
from imageloom.errors import UnsupportedImage
from imageloom.model import Box, Damage, Frame, Header, Pixels, Plain
from imageloom.system.beneath import path_of
from imageloom.tiling.loader import decoded
from imageloom.tiling.readers import Reader, open_reader

FILE = 5
"""The number of the file's descriptor in the process."""


class Question(Plain, frozen=True):
    """What the process must do with its file. Without `box` and `scale` it only opens a reader."""

    header: Header
    box: Box | None = None
    """Decode this box: the next rows, unless the reader has random access."""
    scale: int = 0
    """Decode the whole file at 1/scale of its size; 0 for none of it."""
    luma: bool = False
    metadata: bool = False
    """Parse the metadata."""
    damage: Damage = "warn"
    """Which damage is accepted."""


class Found(Plain, frozen=True):
    """The answer, without pixels."""

    random: bool = False
    across: int = 0
    """Width and height of the file's pieces; 0 if it can only be decoded as a whole."""
    down: int = 0
    metadata: Metadata = Metadata()
    warnings: tuple[str, ...] = ()
    """Damage that was accepted so far."""


def answer(question: Question) -> tuple[Found, Pixels | None]:
    """Answer a question, in the process that has the file open. Raises the same errors as `codecs.decode`."""
    header = question.header
    if question.metadata:
        return Found(metadata=codecs.metadata_of(path_of(FILE), header.format, header.page)), None
    if question.scale:
        found = DamageLog(question.damage)
        pixels = decoded(path_of(FILE), header, question.luma, question.scale, found)
        return Found(warnings=found.warnings), pixels
    try:
        reader, damage = opened(header, question.damage)
    except UnsupportedImage:
        return Found(), None
    box, pieces = question.box, reader.pieces
    rows = reader.read(box.x0, box.y0, box.x1, box.y1) if box else None
    return Found(reader.random, pieces.width, pieces.height, warnings=damage.warnings), rows


@lru_cache(maxsize=1)
def opened(header: Header, policy: Damage) -> tuple[Reader, DamageLog]:
    """A reader of the process's file, and the damage that it finds."""
    if header.pages > 1:
        raise UnsupportedImage("readers read files of one page")
    damage = DamageLog(policy)
    return open_reader(Path(path_of(FILE)), header.format, header.frame, damage), damage


def shape_of(frame: Frame, box: Box) -> tuple[int, ...]:
    """The shape of the array of a box."""
    return (box.height, box.width, frame.channels)[: 2 if frame.channels == 1 else 3]
