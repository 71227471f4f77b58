"""What a hostile file is."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Hostile(NamedTuple):
    """A file of a name that no other has."""

    name: str
    data: bytes
    harmless: bool | None = False
    """There is a picture in it that can be had rightly, though it is odd; None where that is not known."""
    size: int = 0
    """Bytes of the file where it goes on behind its data with a hole, which takes no room on the disk."""

    def write(self, folder: Path) -> None:
        path = folder / self.name
        path.write_bytes(self.data)
        if self.size:
            with path.open("r+b") as file:
                file.truncate(self.size)
