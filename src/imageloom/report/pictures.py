"""Thumbnails of inputs and outputs for a report. A separate process decodes inputs that crashed a worker."""

from __future__ import annotations

import base64
import os
import subprocess
import sys

from imageloom import codecs, operators
from imageloom.errors import ImageloomError, LimitExceeded
from imageloom.model import Encoding, Item, Plain
from imageloom.recipes.meaning import Meanings
from imageloom.recipes.plan import UPRIGHT
from imageloom.records.ledger import Ledger
from imageloom.records.schema import JobRecord
from imageloom.records.timeline import DONE, PART, Timeline
from imageloom.report.figures import DEATHS, FailedItem
from imageloom.report.look import on_paper, thumbnail
from imageloom.stores import open_store

SIDE = 480
SMALL_SIDE = 96
"""Length of the longer side of a failed input's thumbnail, in pixels."""
MOST_PIXELS = 64_000_000
"""Maximum number of pixels of an image that is decoded for a thumbnail."""
MOST_BYTES = 256 << 20
MOST_SAMPLES = 4
MOST_FAILED = 20
PATIENCE = 20.0
"""Time-out in seconds for the thumbnail of an input that crashed a worker."""
_QUALITY = 82


class Sample(Plain, frozen=True):
    """Thumbnails of an input and of one of its outputs."""

    key: str
    name: str
    before: str
    """A data URI."""
    after: str


def picture(root: str, key: str, side: int) -> bytes:
    """A thumbnail of an image file as JPEG, with its orientation applied.

    Raises:
        ItemError: the file cannot be read or decoded, or is too large.
    """
    data = open_store(root).read(key, MOST_BYTES)
    header = codecs.header_of(data)
    scale = 1
    if header.scalable:
        longer = max(header.frame.width, header.frame.height)
        scale = max(s for s in (1, 2, 4, 8) if s == 1 or longer / s >= 2 * side)
    if header.frame.pixels // scale**2 > MOST_PIXELS:
        raise LimitExceeded(f"{header.frame.pixels:,} pixels are too many for a preview")
    pixels = codecs.decode(data, header, luma=False, scale=scale)
    small = on_paper(thumbnail(pixels, side))
    for step in UPRIGHT[header.orientation]:
        small = operators.apply(step, small)
    return codecs.get("jpeg").encode(small, Encoding(_QUALITY))


def samples(ledger: Ledger, job: JobRecord, timeline: Timeline) -> list[Sample]:
    """Thumbnails before and after, for a few items of the whole run whose files have not changed since."""
    work = timeline.opening.work
    done = [a for a in timeline.attempts if a.outcome == DONE and a.made_at != PART]
    if work.in_place or not done:
        return []
    meanings = Meanings(work.recipe, work.name)
    found: list[Sample] = []
    tries = min(len(done), 3 * MOST_SAMPLES)
    for turn in range(tries):
        key = done[(2 * turn + 1) * len(done) // (2 * tries)].key
        try:
            stat = os.stat(os.path.join(job.source, key))
            made = ledger.done(
                job.source, job.sink, Item(key, stat.st_size, stat.st_mtime_ns), meanings.of(key)
            )
            before = _uri(picture(job.source, key, SIDE)) if made else ""
            for name, _ in made:
                found.append(Sample(key, name, before, _uri(picture(job.sink, name, SIDE))))
        except (ImageloomError, OSError):
            continue
        if len(found) >= MOST_SAMPLES:
            break
    return found[:MOST_SAMPLES]


def of_failed(root: str, failed: list[FailedItem]) -> dict[str, str]:
    """Thumbnails of the first failed inputs that can be decoded, by key."""
    found: dict[str, str] = {}
    for item in failed[:MOST_FAILED]:
        try:
            make = _apart if item.kind in DEATHS or item.kind == "MemoryError" else picture
            found[item.key] = _uri(make(root, item.key, SMALL_SIDE))
        except (ImageloomError, OSError, ValueError, MemoryError, subprocess.SubprocessError):
            continue
    return found


def _apart(root: str, key: str, side: int) -> bytes:
    """`picture` in a separate process, because the input may crash it."""
    command = [sys.executable, "-m", "imageloom.report.pictures", root, key, str(side)]
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=PATIENCE
    ).stdout


def _uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


if __name__ == "__main__":
    sys.stdout.buffer.write(picture(sys.argv[1], sys.argv[2], int(sys.argv[3])))
