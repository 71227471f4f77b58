"""Hostile files: false headers, decompression bombs, loops, cut files. Each must fail, or need few resources.

    for file in hostile_files(seed=1, count=10_000):
        file.write(folder)

Hand-made files come first, then mutations: fields of all structures get their extreme values; structures are
cut, removed, repeated and swapped; bytes are changed at random. The same seed gives the same files. The suffix
of a name is that of the format that the file seems to have.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

from imageloom.testing.hostile import bombs, handmade, mutations
from imageloom.testing.hostile.file import Hostile

__all__ = ["Hostile", "hostile_files"]


def hostile_files(seed: int = 0, count: int = 0) -> Iterator[Hostile]:
    """Yield hostile files of all formats.

    Args:
        seed: seed of the mutations.
        count: number of files; 0: only the hand-made files.
    """
    by_hand = chain(handmade.files(), bombs.files())
    return islice(chain(by_hand, mutations.files(seed)), count) if count else by_hand
