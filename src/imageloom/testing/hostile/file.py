"""The type of a hostile file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Hostile(NamedTuple):
    """A hostile file with a unique name."""

    name: str
    data: bytes
    harmless: bool | None = False
    """Whether it contains an unusual image that may be decoded; None if unknown."""
    size: int = 0
    """Size of the file in bytes, if it continues after its data with a hole, which needs no disk space."""

    def write(self, folder: Path) -> None:
        path = folder / self.name
        path.write_bytes(self.data)
        if self.size:
            with path.open("r+b") as file:
                file.truncate(self.size)
