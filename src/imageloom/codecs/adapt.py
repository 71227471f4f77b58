"""Adapts metadata of the input to the output: values that described the old pixels are corrected.

Damaged metadata is dropped; it does not make an image fail.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection
from typing import NamedTuple

from msgspec.structs import replace

from imageloom.codecs import exif, xmp
from imageloom.codecs.metadata import COMMENT, NO_METADATA, Metadata, things
from imageloom.errors import LimitExceeded, MetadataLost
from imageloom.model import Frame, Recipe, Thing

MOST_INFLATED = 16 << 20
"""Maximum decompressed size of one profile or packet, in bytes."""


def orientation(block: bytes) -> int:
    """The orientation, 1 to 8, in an EXIF block; 1 if it is missing or invalid."""
    return exif.stated_orientation(block) or 1


class Target(NamedTuple):
    """What metadata is adapted to."""

    frame: Frame
    """The frame of the output's pixels, which have the normal orientation."""
    carries: Collection[Thing]
    """What a file of the output's format can hold, see `Codec.carries`."""
    moved: bool
    """Whether a step moves pixels: a resize, a crop, a turn. False: each pixel is at its old place."""
    changed: bool = True
    """Whether a step changes pixels in any way."""
    shows_all: bool = False
    """Whether only resizes and turns are done: nothing of the picture is cut away or hidden."""


class Carried(NamedTuple):
    """What an output takes along."""

    metadata: Metadata
    dropped: frozenset[Thing] = frozenset()
    """What the input has and the output lacks."""


NOTHING = Carried(NO_METADATA)
_COPIES: frozenset[Thing] = frozenset({"thumbnail"})
"""Small copies of the old picture: no output can be expected to keep them."""


def for_output(metadata: Metadata, target: Target) -> Carried:
    """The metadata of an output.

    The orientation is reset, the size is updated, and thumbnails are removed. A colour profile is kept only if it
    fits the kind of colours of the output. What the format cannot hold is dropped.
    """
    if metadata == NO_METADATA:
        return NOTHING
    frame, carries, lost = target.frame, target.carries, set(metadata.found)
    fits = metadata.icc[16:20] == (b"RGB " if frame.channels > 2 else b"GRAY")
    block = exif.adapted(metadata.exif, frame)
    if block.has_lost_thumbnail:
        lost.add("thumbnail")
    density = metadata.density
    gain_map = metadata.gain_map if "gain map" in carries and not target.changed else b""
    video = metadata.video if "video" in carries and target.shows_all else b""
    lengths = {"GainMap": len(gain_map), "MotionPhoto": len(video)}
    behind = {semantic: length for semantic, length in lengths.items() if length}
    adapted = replace(
        metadata,
        exif=block.exif,
        xmp=_packet(metadata.xmp, target, behind, lost),
        extended_xmp=_packet(metadata.extended_xmp, target, behind, lost),
        icc=metadata.icc if fits else b"",
        density=density if density and (density.x == density.y or not target.moved) else None,
        texts=tuple(t for t in metadata.texts if ("comment" if t.keyword == COMMENT else "text") in carries),
        gain_map=gain_map,
        video=video,
        georeference=b"" if target.moved else metadata.georeference,
    )
    dropped = things(metadata) - (things(adapted) & set(carries))
    return Carried(adapted, frozenset(dropped | lost))


def _packet(packet: bytes, target: Target, behind: dict[str, int], lost: set[Thing]) -> bytes:
    """The XMP of an output. It says only what is true of the output.

    Args:
        behind: semantics and length of what the output's file has behind its image.
        lost: gets what was removed.
    """
    if not packet:
        return b""
    try:
        packet = xmp.with_lengths(packet, behind)
        without = xmp.without_old_pictures(packet, thumbnails=True, depth=False)
        if without != packet:
            lost.add("thumbnail")
        packet = xmp.without_old_pictures(without, thumbnails=False, depth=target.changed)
        if without != packet:
            lost.add("depth map")
    except ValueError:
        lost.add("XMP")
        return b""
    return xmp.upright(packet, target.frame.width, target.frame.height)


def refuse_losses(recipe: Recipe, dropped: frozenset[Thing]) -> frozenset[Thing]:
    """What an output lacks, if the recipe accepts that.

    Raises:
        MetadataLost: it does not.
    """
    lost = ", ".join(sorted(dropped - _COPIES))
    if lost and recipe.metadata == "strict":
        raise MetadataLost(f"the output would lack what the input has: {lost} (--strict-metadata)")
    return dropped


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
