"""What an EXIF block says of positions (Exif 2.32): where the subject is, how dense the pixels are on the sensor.

Positions are those of the stored image, before its orientation is applied.
"""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from math import isfinite

from imageloom.codecs.placing import Placing
from imageloom.codecs.tags import RATIONAL, SHORT, Directory, Entry, Order, directory, numbers, remove

_AREA, _LOCATION = 0x9214, 0xA214
_SIDES = (0xA20E, 0xA20F)
"""Pixels per unit on the sensor, across and down."""
TAGS = frozenset({_AREA, _LOCATION, *_SIDES})
_MOST = (1 << 32) - 1


def place(block: bytearray, at: int, order: Order, placing: Placing) -> bool:
    """Change the positions in the directory at `at` to those in the output. Whether one had to be removed.

    Raises:
        MoreNeeded, CorruptImage: the directory is damaged.
    """
    exif = bytes(block)
    below = directory(exif, at, order)
    lost = set()
    for tag in (_AREA, _LOCATION):
        if entry := below.entries.get(tag):
            stated = numbers(exif, entry, order)
            found = moved_subject(stated, placing) if entry.kind == SHORT else None
            if found and max(found) < 1 << 16:
                _write(block, entry, 2, found, order)
            else:
                lost.add(tag)
    lost |= _place_sides(block, exif, below, order, placing)
    if lost:
        remove(block, below, at + 2, order, lost)
    return bool(lost)


def moved_subject(stated: tuple[int, ...], placing: Placing) -> tuple[int, ...] | None:
    """A subject in the output, in pixels; None if it is not there or is not valid.

    Args:
        stated: a point; a circle's centre and its diameter; or a rectangle's centre, its width and its height.
    """
    if len(stated) == 2 and (point := placing.point(*stated)):
        return _rounded(*point)
    if len(stated) == 3 and (point := placing.point(*stated[:2])) and placing.scale:
        return _rounded(*point, stated[2] * placing.scale)
    if len(stated) == 4:
        x, y, width, height = stated
        if not (width and height):  # some cameras write a point in this way
            return (*_rounded(*point), 0, 0) if (point := placing.point(x, y)) else None
        if span := placing.span((x - width / 2, y - height / 2, x + width / 2, y + height / 2)):
            left, top, right, bottom = span
            return _rounded((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    return None


def _rounded(*values: float) -> tuple[int, ...]:
    return tuple(round(value) for value in values)


def moved_sides(x: Fraction, y: Fraction, placing: Placing) -> tuple[Fraction, Fraction] | None:
    """The densities on the sensor of the output's columns and rows; None if they are not known."""
    scales = placing.scales
    if not all(map(isfinite, scales)):
        return None
    x, y = (
        (side * Fraction(scale)).limit_denominator(10_000) for side, scale in zip((x, y), scales, strict=True)
    )
    return (y, x) if placing.has_swapped_axes else (x, y)


def _place_sides(block: bytearray, exif: bytes, below: Directory, order: Order, placing: Placing) -> set[int]:
    """Change the densities on the sensor. The tags that have to be removed."""
    entries = [below.entries[tag] for tag in _SIDES if tag in below.entries]
    if not entries or placing.keeps_scale:
        return set()
    if len(entries) == 2 and all((entry.kind, entry.length) == (RATIONAL, 1) for entry in entries):
        with suppress(ZeroDivisionError):
            stated = [Fraction(*_rational(exif, entry, order)) for entry in entries]
            found = moved_sides(stated[0], stated[1], placing)
            if found and all(side.numerator <= _MOST for side in found):
                for entry, side in zip(entries, found, strict=True):
                    _write(block, entry, 4, (side.numerator, side.denominator), order)
                return set()
    return {tag for tag in _SIDES if tag in below.entries}


def _rational(exif: bytes, entry: Entry, order: Order) -> tuple[int, int]:
    above, under = numbers(exif, entry._replace(kind=4, length=2), order)
    return above, under


def _write(block: bytearray, entry: Entry, size: int, values: tuple[int, ...], order: Order) -> None:
    block[entry.at : entry.at + size * len(values)] = b"".join(
        value.to_bytes(size, order) for value in values
    )
