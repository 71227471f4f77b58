"""A set of names in a megabyte, however many there are. It may find a name that was not added."""

from __future__ import annotations

_BITS = 1 << 23


class NameFilter:
    """Answers quickly whether a name may have been added. A no is always right.

    It is a Bloom filter with one hash: after 100,000 names, 1% of the other names are found too.
    """

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, name: str) -> None:
        if not self._bits:
            self._bits = bytearray(_BITS // 8)
        place = hash(name) % _BITS
        self._bits[place >> 3] |= 1 << (place & 7)

    def may_have(self, name: str) -> bool:
        """Whether a name may have been added."""
        place = hash(name) % _BITS
        return bool(self._bits and self._bits[place >> 3] >> (place & 7) & 1)
