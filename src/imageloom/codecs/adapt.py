"""Adapts metadata of the input to the output: values that described the old pixels are corrected.

Damaged metadata is dropped; it does not make an image fail.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection
from typing import NamedTuple

from msgspec.structs import replace

from imageloom.codecs.bits import MoreNeeded
from imageloom.codecs.metadata import NO_METADATA, Metadata, things
from imageloom.codecs.tags import (
    EXIF,
    LONG,
    SHORT,
    SIZES,
    Directory,
    Order,
    directory,
    first_directory,
    numbers,
    order_of,
)
from imageloom.errors import LimitExceeded, MetadataLost
from imageloom.model import Frame, Header, Recipe, Thing

MOST_INFLATED = 16 << 20
"""Maximum decompressed size of one profile or packet, in bytes."""

_ORIENTATION, _THUMBNAIL, _THUMBNAIL_LENGTH, _WIDTH, _HEIGHT = 0x0112, 0x0201, 0x0202, 0xA002, 0xA003
_XMP_ORIENTATION = rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]"


def orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, in an EXIF block; 1 if it is missing or invalid (Exif 2.32, 4.6.4)."""
    try:
        value = numbers(exif, first_directory(exif).entries[_ORIENTATION], order_of(exif))[0]
    except (MoreNeeded, KeyError, IndexError):
        return 1
    return value if 1 <= value <= 8 else 1


class Target(NamedTuple):
    """What metadata is adapted to."""

    frame: Frame
    """The frame of the output's pixels, which have the normal orientation."""
    carries: Collection[Thing]
    """What a file of the output's format can hold, see `Codec.carries`."""
    moved: bool
    """Whether a step moves pixels: a resize, a crop, a turn. False: each pixel is at its old place."""


class Carried(NamedTuple):
    """What an output takes along."""

    metadata: Metadata
    dropped: frozenset[Thing] = frozenset()
    """What the input has and the output lacks."""


NOTHING = Carried(NO_METADATA)


def for_output(metadata: Metadata, target: Target) -> Carried:
    """The metadata of an output.

    The orientation is reset, the size is updated, and the thumbnail is removed. A colour profile is kept only if
    it fits the kind of colours of the output. What the output's format cannot hold is dropped.
    """
    if metadata == NO_METADATA:
        return NOTHING
    frame = target.frame
    fits = metadata.icc[16:20] == (b"RGB " if frame.channels > 2 else b"GRAY")
    adapted = replace(
        metadata,
        exif=_adapted(metadata.exif, frame),
        xmp=re.sub(_XMP_ORIENTATION, rb"\g<1>1", metadata.xmp),
        extended_xmp=re.sub(_XMP_ORIENTATION, rb"\g<1>1", metadata.extended_xmp),
        icc=metadata.icc if fits else b"",
        georeference=b"" if target.moved else metadata.georeference,
    )
    dropped = things(metadata) - (things(adapted) & set(target.carries))
    return Carried(adapted, frozenset(dropped.union(metadata.found)))


def other_pages(header: Header, recipe: Recipe) -> frozenset[Thing]:
    """What is not done of a file with several pages, unless the recipe asks for certain pages."""
    return frozenset({"pages"} if header.pages > 1 and recipe.pages == "first" else ())


def refuse_losses(recipe: Recipe, dropped: frozenset[Thing]) -> frozenset[Thing]:
    """What an output lacks, if the recipe accepts that.

    Raises:
        MetadataLost: it does not.
    """
    if dropped and recipe.metadata == "strict":
        lost = ", ".join(sorted(dropped))
        raise MetadataLost(f"the output would lack what the input has: {lost} (--strict-metadata)")
    return dropped


def _adapted(exif: bytes, frame: Frame) -> bytes:
    """The adapted EXIF block. It is changed in place, so that offsets in maker notes remain valid."""
    cleaned, order = bytearray(exif), order_of(exif)
    try:
        first = first_directory(exif)
        _put(cleaned, first, _ORIENTATION, 1, order)
        if first.next:
            cleaned[first.next_at : first.next_at + 4] = bytes(4)
            _wipe_thumbnail(cleaned, exif, directory(exif, first.next, order), order)
        if EXIF in first.entries:
            below = directory(exif, numbers(exif, first.entries[EXIF], order)[0], order)
            _put(cleaned, below, _WIDTH, frame.width, order)
            _put(cleaned, below, _HEIGHT, frame.height, order)
    except (MoreNeeded, IndexError):
        pass  # readers stop at the same place: the rest needs no change
    return bytes(cleaned)


def _put(exif: bytearray, of: Directory, tag: int, value: int, order: Order) -> None:
    """Set the number of an existing tag."""
    entry = of.entries.get(tag)
    if entry and entry.length == 1 and entry.kind in (SHORT, LONG) and value < 1 << 8 * SIZES[entry.kind]:
        exif[entry.at : entry.at + SIZES[entry.kind]] = value.to_bytes(SIZES[entry.kind], order)


def _wipe_thumbnail(exif: bytearray, before: bytes, second: Directory, order: Order) -> None:
    """Overwrite the thumbnail of the old pixels: it may show what a crop was meant to hide."""
    if not {_THUMBNAIL, _THUMBNAIL_LENGTH} <= second.entries.keys():
        return
    at = numbers(before, second.entries[_THUMBNAIL], order)[0]
    end = at + numbers(before, second.entries[_THUMBNAIL_LENGTH], order)[0]
    if end >= len(exif):
        del exif[at:]
    else:
        exif[at:end] = bytes(end - at)


def inflate(data: bytes, what: str) -> bytes:
    """Decompress a profile or packet; empty if it is damaged.

    Raises:
        LimitExceeded: it decompresses to more than `MOST_INFLATED` bytes.
    """
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(data, MOST_INFLATED)
    except zlib.error:
        return b""
    if stream.unconsumed_tail:
        raise LimitExceeded(
            f"its {what} decompresses to more than {MOST_INFLATED:,} bytes, which is the limit"
        )
    return plain if stream.eof else b""
