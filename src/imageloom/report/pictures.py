"""Small pictures for a report: of inputs, of outputs, and of what harmed its worker, in a process of their own."""

from __future__ import annotations

import base64
import os
import subprocess
import sys

from imageloom import codecs, operators
from imageloom.errors import ImageloomError, LimitExceeded
from imageloom.model import Item, Plain
from imageloom.recipes.plan import UPRIGHT, meaning
from imageloom.records.ledger import JobRecord, Ledger
from imageloom.records.timeline import DONE, PART, Timeline
from imageloom.report.figures import DEATHS, FailedItem
from imageloom.report.look import on_paper, thumbnail
from imageloom.stores import open_store

SIDE = 480
SMALL_SIDE = 96
"""Pixels of a failed input's longer side."""
MOST_PIXELS = 64_000_000
"""What is decoded for a picture at the most."""
MOST_BYTES = 256 << 20
MOST_SAMPLES = 4
MOST_FAILED = 20
PATIENCE = 20.0
"""Seconds for the picture of an input that harmed its worker."""
_QUALITY = 82


class Sample(Plain, frozen=True):
    """An input and one of its outputs, as pictures."""

    key: str
    name: str
    before: str
    """A data URI."""
    after: str


def picture(root: str, key: str, side: int) -> bytes:
    """A small JPEG of an image file, upright.

    Raises:
        ItemError: it cannot be read or decoded, or is too large.
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
    return codecs.get("jpeg").encode(small, _QUALITY)


def samples(ledger: Ledger, job: JobRecord, timeline: Timeline) -> list[Sample]:
    """Before and after, for a few items from all over the run whose files are still as they were."""
    work = timeline.opening.work
    done = [a for a in timeline.attempts if a.outcome == DONE and a.made_at != PART]
    if work.in_place or not done:
        return []
    recipe = meaning(work.recipe, work.name)
    found: list[Sample] = []
    tries = min(len(done), 3 * MOST_SAMPLES)
    for turn in range(tries):
        key = done[(2 * turn + 1) * len(done) // (2 * tries)].key
        try:
            stat = os.stat(os.path.join(job.source, key))
            made = ledger.done(job.source, job.sink, Item(key, stat.st_size, stat.st_mtime_ns), recipe)
            before = _uri(picture(job.source, key, SIDE)) if made else ""
            for name, _ in made:
                found.append(Sample(key, name, before, _uri(picture(job.sink, name, SIDE))))
        except (ImageloomError, OSError):
            continue
        if len(found) >= MOST_SAMPLES:
            break
    return found[:MOST_SAMPLES]


def of_failed(root: str, failed: list[FailedItem]) -> dict[str, str]:
    """Pictures of the first inputs that failed and can be decoded all the same, by key."""
    found: dict[str, str] = {}
    for item in failed[:MOST_FAILED]:
        try:
            make = _apart if item.kind in DEATHS or item.kind == "MemoryError" else picture
            found[item.key] = _uri(make(root, item.key, SMALL_SIDE))
        except (ImageloomError, OSError, ValueError, MemoryError, subprocess.SubprocessError):
            continue
    return found


def _apart(root: str, key: str, side: int) -> bytes:
    """`picture` in a process of its own: what killed a worker may kill it."""
    command = [sys.executable, "-m", "imageloom.report.pictures", root, key, str(side)]
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=PATIENCE
    ).stdout


def _uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


if __name__ == "__main__":
    sys.stdout.buffer.write(picture(sys.argv[1], sys.argv[2], int(sys.argv[3])))
