"""What the files of a run lost: counts, and their description for users."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from imageloom.model import COPIES, MISSING, Result, Thing

_PLURALS: dict[str, str] = {
    thing: f"{thing}s"
    for thing in ("animation", "colour profile", "comment", "gain map", "georeference", "thumbnail", "video")
}
"""Things that are counted; the others have no plural."""
MOST_SUFFIXES = 20
"""Maximum number of suffixes that are counted separately."""
OTHERS = "other suffixes"
_NONE = "without a suffix"


class Losses:
    """Counts the done items of a run that lost something or are damaged."""

    def __init__(self) -> None:
        self.lost = self.damaged = self.incomplete = 0
        self.dropped: Counter[Thing] = Counter()

    def add(self, result: Result) -> None:
        """Count the result of a done item."""
        self.lost += not COPIES.issuperset(result.dropped)
        self.dropped.update(result.dropped)
        self.damaged += bool(result.warnings)
        self.incomplete += any(warning.startswith(MISSING) for warning in result.warnings)


class LeftOut:
    """Counts files that are not processed because no codec has their suffix."""

    def __init__(self) -> None:
        self.suffixes: Counter[str] = Counter()

    def add(self, key: str) -> None:
        stem, dot, suffix = key.rpartition("/")[2].rpartition(".")
        found = f".{suffix.lower()[:20]}" if dot and stem and suffix else _NONE
        if found not in self.suffixes and len(self.suffixes) >= MOST_SUFFIXES:
            found = OTHERS
        self.suffixes[found] += 1


def without_copies(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts of losses, without copies of the picture: these are not what a user misses."""
    return {thing: number for thing, number in counts.items() if thing not in COPIES}


def counted(counts: Mapping[str, int]) -> str:
    """Counts as text, the largest first: 12 gain maps, 3 EXIF."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(
        f"{number:,} {thing if number == 1 else _PLURALS.get(thing, thing)}" for thing, number in ordered
    )


def files(count: int, one: str, more: str) -> str:
    """A sentence about a number of files.

    Args:
        one: its verb for one file, such as "is damaged".
        more: its verb for another number.
    """
    return f"{count:,} file {one}" if count == 1 else f"{count:,} files {more}"
