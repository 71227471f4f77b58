"""The work that all configurations do: photos, a place for outputs, and what the outputs must be."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from imageloom.bench.programs import IMAGELOOM
from imageloom.bench.records import Configuration
from imageloom.bench.samples import draw_photos
from imageloom.driver.source import Source
from imageloom.errors import NothingToDo
from imageloom.model import Item

DRAWN = 240
"""Photos that are drawn where none are given; of more, several are the same file."""
SOME = 1000
"""Images that show what memory is taken: more of them take no more."""


class Work:
    """Photos and a pipeline, in a folder of their own; some of them, for what memory is taken, and one small
    photo, for what a start takes.

    Args:
        pipeline: as text.
        folder: of photos; None for drawn ones.
        count: how many images there are to be, the same ones again where the folder has fewer; 0 for those
            that it has.
        place: where all lies that a bench makes.

    Raises:
        NothingToDo: there is no image in the folder.
    """

    def __init__(self, pipeline: str, folder: Path | None, count: int, place: Path) -> None:
        self.pipeline = pipeline
        self.drawn = folder is None
        self.place = place
        self.out = place / "out"
        self.ledger = place / "out.db"
        if folder is None:
            draw_photos(folder := place / "drawn", min(count or DRAWN, DRAWN))
        source = Source(str(folder))
        found = [path for item in source if isinstance(item, Item) and (path := source.store.path(item.key))]
        if not found:
            raise NothingToDo(f"there is no image in {folder}")
        found.sort()
        self.count = count or len(found)
        self.different = min(self.count, len(found))
        self.photos, self.some, self.one = place / "photos", place / "some", place / "one"
        for target, count in ((self.photos, self.count), (self.some, min(SOME, self.count))):
            target.mkdir()
            for turn in range(count):
                photo = Path(found[turn % len(found)])
                link(photo, target / f"{turn:06}{photo.suffix}")
        if len(found) > 1:
            self.one.mkdir()
            photo = min(map(Path, found), key=lambda path: path.stat().st_size)
            link(photo, self.one / photo.name)
        else:  # which may be a huge one
            draw_photos(self.one, 1)
        self.bytes = sum(path.stat().st_size for path in self.photos.iterdir())

    def command(self, configuration: Configuration, source: Path, *flags: str) -> list[str]:
        """`imageloom run` as this configuration says."""
        return [
            *(*IMAGELOOM, "run", self.pipeline, str(source), str(self.out), "--ledger", str(self.ledger)),
            *("--quiet", "--engine", configuration.engine, f"-j{configuration.workers}"),
            *(*configuration.flags, *flags),
        ]

    def clear(self) -> None:
        """No outputs, and no memory of any."""
        set_aside(self.out)
        shutil.rmtree(self.place / "timelines", ignore_errors=True)
        for file in self.place.glob("out.db*"):
            file.unlink()


FEW = 100
"""Files that can be deleted before a timed run without slowing it down."""


def set_aside(folder: Path) -> None:
    """Make a folder's name free for a run that is timed.

    A folder of many files is renamed, not deleted: on ext4 each new file costs about half a millisecond of
    kernel time for some seconds after many were deleted. Whoever owns the parent folder deletes it at the end.
    """
    if not folder.exists():
        return
    if len(list(folder.rglob("*"))) <= FEW:
        shutil.rmtree(folder)
        return
    number = sum(1 for _ in folder.parent.glob(f"{folder.name}.used-*"))
    folder.rename(folder.with_name(f"{folder.name}.used-{number}"))


def link(path: Path, target: Path) -> None:
    """A hard link, or a copy where there can be none."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def digests(folder: Path) -> dict[str, str]:
    """A digest of every file below a folder, by its name; what lies in staging is a file too many."""
    return {
        path.relative_to(folder).as_posix(): hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def difference(expected: dict[str, str], found: dict[str, str]) -> str:
    """What is not as it must be, in words; empty where all is."""
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    other = {name for name in expected.keys() & found.keys() if expected[name] != found[name]}
    words = [
        f"{len(names):,} {what}, as {min(names)}"
        for names, what in (
            (missing, "outputs are missing"),
            (other, "outputs are not the serial engine's bytes"),
            (extra, "files too many"),
        )
        if names
    ]
    return "; ".join(words)
