"""Adapts metadata of the input to the output: values that described the old pixels are corrected.

Damaged metadata is dropped; it does not make an image fail.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection
from typing import NamedTuple

from msgspec.structs import replace

from imageloom import colours
from imageloom.codecs import exif, notes, packets, regions, xmp
from imageloom.codecs.metadata import COMMENT, NO_METADATA, Carried, Density, Metadata, Text, things
from imageloom.codecs.placing import Placing
from imageloom.errors import LimitExceeded
from imageloom.model import Frame, Thing

MOST_INFLATED = 16 << 20
"""Maximum decompressed size of one profile or packet, in bytes."""


def orientation(block: bytes, packet: bytes = b"") -> int:
    """The orientation, 1 to 8, in an EXIF block, or else in an XMP packet; 1 if it is missing or invalid."""
    return exif.stated_orientation(block) or packets.orientation(packet)


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
    colours: str = ""
    """What the input states of its colours, see `Header.colours`."""
    converted: bool = False
    """Whether the colours are converted to sRGB."""
    profile: bytes = b""
    """The profile that says the same as the input, if the output cannot say it in the same way."""
    dropped: frozenset[Thing] = frozenset()
    """What the pixels of the output lack."""
    keywords: Collection[str] = ()
    """The keywords of the texts that the format can hold; empty: all."""
    can_state: Callable[[Density], bool] | None = None
    """Whether the format can state a density; None: each one that it carries."""
    placing: Callable[[], Placing] | None = None
    """Where the input's pixels are in the output; None if they are where they were."""
    moves_values: bool = False
    """Whether the format lays out EXIF anew, so that offsets in maker notes become invalid."""


def for_output(metadata: Metadata, target: Target) -> Carried:
    """The metadata of an output.

    The orientation is reset, the size is updated, and thumbnails are removed. A colour profile is kept only if it
    fits the kind of colours of the output. What the format cannot hold is dropped.
    """
    if metadata == NO_METADATA:
        return Carried(NO_METADATA, target.dropped)
    frame, carries, lost = target.frame, target.carries, {*metadata.found, *target.dropped}
    icc = target.profile or metadata.icc
    kind = b"RGB " if frame.without_extra.channels > 2 else b"GRAY"
    fits = not target.converted and icc[16:20] == kind
    described, has_lost_note = notes.without_false(metadata.exif, frame, target.moved)
    if has_lost_note:
        lost.add("text")
    density = metadata.density
    if density and density.x != density.y and target.moved:
        density, described = None, notes.without(described, notes.DENSITY)
    if density and target.can_state and not target.can_state(density):
        density = None
    block = exif.adapted(described, frame, target.converted, target.placing)
    if block.has_lost_thumbnail:
        lost.add("thumbnail")
    if block.has_lost_subject:
        lost.add("regions")
    if target.moves_values and exif.has_fixed_note(block.exif):
        lost.add("private metadata")
    texts = tuple(text for text in metadata.texts if _holds(target, text))
    lost.update(_thing(text) for text in metadata.texts if text not in texts)
    gain_map = metadata.gain_map if "gain map" in carries else b""
    video = metadata.video if "video" in carries and target.shows_all else b""
    lengths = {"GainMap": len(gain_map), "MotionPhoto": len(video)}
    behind = {semantic: length for semantic, length in lengths.items() if length}
    adapted = replace(
        metadata,
        exif=block.exif,
        xmp=_packet(metadata.xmp, target, behind, lost),
        extended_xmp=_packet(metadata.extended_xmp, target, behind, lost),
        icc=icc if fits else b"",
        colours=None if target.converted or target.profile else metadata.colours,
        density=density,
        texts=texts,
        gain_map=gain_map,
        video=video,
        georeference=b"" if target.moved else metadata.georeference,
    )
    kept = things(adapted) & set(carries)
    if not metadata.extended_xmp and b"HasExtendedXMP" in adapted.xmp:
        adapted = replace(adapted, xmp=packets.alone(adapted.xmp))
    if metadata.extended_xmp and "extended XMP" not in target.carries:
        adapted, is_joined = _in_one_packet(adapted)
        kept |= {"extended XMP"} if is_joined else set()
    stated = metadata.density
    if (
        stated
        and "density" not in kept
        and "EXIF" in kept
        and exif.states_density(block.exif, stated.x, stated.y)
    ):
        kept.add("density")
    if target.converted or target.profile or (metadata.colours and metadata.colours.is_srgb):
        kept.add("colours")  # readers assume sRGB of a file that says nothing
    if target.converted or colours.is_srgb(metadata.icc):
        kept.add("colour profile")
    return Carried(adapted, frozenset((things(metadata) - kept) | lost))


def _thing(text: Text) -> Thing:
    return "comment" if text.keyword == COMMENT else "text"


def _holds(target: Target, text: Text) -> bool:
    """Whether the output's format can hold a text."""
    return _thing(text) in target.carries and (not target.keywords or text.keyword in target.keywords)


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
        if target.placing and regions.are_in(packet):
            packet, has_lost_regions = regions.placed(packet, target.placing())
            if has_lost_regions:
                lost.add("regions")
    except ValueError:
        lost.add("XMP")
        return b""
    if target.converted:
        packet = xmp.in_srgb(packet)
    return xmp.upright(packet, target.frame.width, target.frame.height)


def _in_one_packet(metadata: Metadata) -> tuple[Metadata, bool]:
    """The metadata with the XMP in one packet, and whether nothing of it is lost."""
    joined = packets.joined(metadata.xmp, metadata.extended_xmp)
    return replace(metadata, xmp=joined or packets.alone(metadata.xmp), extended_xmp=b""), bool(joined)


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
