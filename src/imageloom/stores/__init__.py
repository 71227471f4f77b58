"""Stores: places of bytes by address, one file for each technology."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Protocol

from imageloom.model import Item, Unlisted
from imageloom.stores.local import LocalStore


class Store(Protocol):
    """A place of bytes. Keys are relative paths with forward slashes."""

    address: str

    def items(self) -> Iterator[Item | Unlisted]:
        """All that is there, as it is found; what cannot be an item comes with the reason."""

    def read(self, key: str, limit: int) -> bytes:
        """The bytes of a file, refused over `limit` bytes."""

    def head(self, key: str, length: int, start: int = 0) -> bytes:
        """`length` bytes of a file from `start` on, or all that there are."""

    def size(self, key: str) -> int | None:
        """The size of a file in bytes; None where there is none."""

    def stage(self, token: str, data: bytes) -> None:
        """Write bytes where nobody looks for outputs, under a token of the attempt's own."""

    def stage_folder(self, token: str, files: Mapping[str, bytes]) -> None:
        """The same with the files of a folder, by their paths within it."""

    def publish(self, token: str, key: str) -> None:
        """Give staged bytes their name in one indivisible step, in place of what has it.

        An old folder that a new one takes the place of is moved away just before.
        """

    def discard(self, token: str) -> None:
        """Drop staged bytes; nothing happens where there are none."""


def stage(store: Store, token: str, data: bytes | Mapping[str, bytes]) -> int:
    """Stage a file, or the files of a folder by their paths within it; gives their bytes together."""
    if isinstance(data, bytes):
        store.stage(token, data)
        return len(data)
    store.stage_folder(token, data)
    return sum(map(len, data.values()))


@lru_cache(maxsize=64)
def open_store(address: str) -> Store:
    """The store at an address: the path of a local folder."""
    return LocalStore(address)
