"""Values of an EXIF block as texts, for names of outputs and for texts in images (Exif 2.32, 4.6)."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction

from imageloom.codecs.bits import MoreNeeded
from imageloom.codecs.exifnames import BELOW, FIRST
from imageloom.codecs.tags import (
    EXIF,
    LONG,
    RATIONAL,
    SHORT,
    TEXT,
    Directory,
    Entry,
    directory,
    first_directory,
    numbers,
    order_of,
)
from imageloom.errors import CorruptImage

MOST_TEXT = 200
"""Maximum length of a text, in characters; the rest is cut off."""


def texts(exif: bytes) -> dict[str, str]:
    """The values in a block by name, as texts. Those that are missing, empty or damaged are left out."""
    found: dict[str, str] = {}
    with suppress(MoreNeeded, CorruptImage, IndexError, KeyError):
        first = first_directory(exif)
        _add(found, exif, first, FIRST)
        below = directory(exif, numbers(exif, first.entries[EXIF], order_of(exif))[0], order_of(exif))
        _add(found, exif, below, BELOW)
    return found


def _add(found: dict[str, str], exif: bytes, place: Directory, names: dict[str, int]) -> None:
    for name, tag in names.items():
        entry = place.entries.get(tag)
        if entry is None:
            continue
        with suppress(MoreNeeded, CorruptImage, IndexError, ZeroDivisionError):
            if text := _text(exif, entry):
                found[name] = text


def _text(exif: bytes, entry: Entry) -> str:
    if entry.kind == TEXT:
        data = exif[entry.at : entry.at + min(entry.length, 4 * MOST_TEXT)].partition(b"\0")[0]
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text = data.decode("latin-1")
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:MOST_TEXT]
    if entry.kind in (SHORT, LONG):
        return str(numbers(exif, entry, order_of(exif))[0])
    if entry.kind == RATIONAL:
        order = order_of(exif)
        over, under = (int.from_bytes(exif[at : at + 4], order) for at in (entry.at, entry.at + 4))
        value = Fraction(over, under)
        return str(value) if value < 1 else f"{float(value):g}"
    return ""
