"""Reading numbers out of headers."""

from __future__ import annotations

from typing import Literal


class MoreNeeded(Exception):
    """The header goes on behind the bytes that were given."""


def number(data: bytes, at: int, length: int, order: Literal["big", "little"] = "big") -> int:
    """The unsigned integer of `length` bytes at `at`."""
    if at + length > len(data):
        raise MoreNeeded
    return int.from_bytes(data[at : at + length], order)


def orientation(exif: bytes) -> int:
    """Orientation, 1 to 8, of an EXIF block (a TIFF structure); 1 where there is none or it makes no sense.

    Exif 2.32, 4.6.2: the tag 0x0112 of the first directory.
    """
    order: Literal["big", "little"] = "little" if exif[:2] == b"II" else "big"
    try:
        directory = number(exif, 4, 4, order)
        for entry in range(number(exif, directory, 2, order)):
            at = directory + 2 + 12 * entry
            if number(exif, at, 2, order) == 0x0112:
                value = number(exif, at + 8, 2, order)
                return value if 1 <= value <= 8 else 1
    except MoreNeeded:
        pass
    return 1
