"""The job that all configurations run: photos, a folder for outputs, and the check of the outputs."""

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
"""Number of different drawn photos. If more are needed, several are the same file."""
SOME = 1000
"""Number of images for the measurement of memory: more images need no more memory."""


class Work:
    """Photos and a pipeline. Some photos are used to measure the memory, one small photo to measure the start.

    Args:
        pipeline: the pipeline as text.
        folder: folder of photos; None for drawn photos.
        count: number of images. Images are repeated if the folder has fewer. 0: all images of the folder.
        place: folder for all files of the bench.

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
        else:  # it may be huge
            draw_photos(self.one, 1)
        self.bytes = sum(path.stat().st_size for path in self.photos.iterdir())

    def command(self, configuration: Configuration, source: Path, *flags: str) -> list[str]:
        """The command line of `imageloom run` for this configuration."""
        return [
            *(*IMAGELOOM, "run", self.pipeline, str(source), str(self.out), "--ledger", str(self.ledger)),
            *("--quiet", "--engine", configuration.engine, f"-j{configuration.workers}"),
            *(*configuration.flags, *flags),
        ]

    def clear(self) -> None:
        """Remove the outputs and the ledger."""
        set_aside(self.out)
        shutil.rmtree(self.place / "timelines", ignore_errors=True)
        for file in self.place.glob("out.db*"):
            file.unlink()


FEW = 100
"""Number of files that can be deleted before a measured run without slowing it down."""


def set_aside(folder: Path) -> None:
    """Free the name of a folder for a measured run.

    A folder with many files is renamed, not deleted: on ext4, for some seconds after many deletions, each new
    file costs about half a millisecond of kernel time. The owner of the parent folder deletes it later.
    """
    if not folder.exists():
        return
    if len(list(folder.rglob("*"))) <= FEW:
        shutil.rmtree(folder)
        return
    number = sum(1 for _ in folder.parent.glob(f"{folder.name}.used-*"))
    folder.rename(folder.with_name(f"{folder.name}.used-{number}"))


def link(path: Path, target: Path) -> None:
    """Make a hard link, or a copy if that is impossible."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def digests(folder: Path) -> dict[str, str]:
    """The digest of every file below a folder, by name, including files in the staging folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def difference(expected: dict[str, str], found: dict[str, str]) -> str:
    """A description of the differences; empty if there are none."""
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
