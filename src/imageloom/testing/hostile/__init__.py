"""Hostile files: headers that lie, bombs, loops, cuts. Each is to be refused by name, or done in small bounds.

    for file in hostile_files(seed=1, count=10_000):
        file.write(folder)

The files made by hand come first, then mutations: each field of each structure of each format takes the values
at its edges, structures are cut, removed, repeated and swapped, and bytes are changed by chance. The same seed
gives the same files. Names end in the suffix of the format that a file pretends to be.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

from imageloom.testing.hostile import bombs, handmade, mutations
from imageloom.testing.hostile.file import Hostile

__all__ = ["Hostile", "hostile_files"]


def hostile_files(seed: int = 0, count: int = 0) -> Iterator[Hostile]:
    """Hostile files of all formats, one after the other.

    Args:
        seed: of the mutations.
        count: how many files; 0 for those made by hand alone.
    """
    by_hand = chain(handmade.files(), bombs.files())
    return islice(chain(by_hand, mutations.files(seed)), count) if count else by_hand
