"""Reading numbers out of headers."""

from __future__ import annotations

from typing import Literal


class MoreNeeded(Exception):
    """The header goes on behind the bytes that were given."""


def number(data: bytes | bytearray, at: int, length: int, order: Literal["big", "little"] = "big") -> int:
    """The unsigned integer of `length` bytes at `at`."""
    if at + length > len(data):
        raise MoreNeeded
    return int.from_bytes(data[at : at + length], order)
