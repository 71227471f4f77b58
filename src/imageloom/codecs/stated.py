"""What a file states of its colours, as a text of `colours`."""

from __future__ import annotations

from imageloom import colours
from imageloom.codecs import exif
from imageloom.codecs.metadata import Metadata


def colours_of(metadata: Metadata, channels: int) -> str:
    """The colours of a file from its metadata: codes before a profile, a profile before numbers, EXIF at last
    (PNG specification, third edition, 4.3). Only `icc`, `colours` and `exif` are used.

    Args:
        channels: of the decoded pixels. A profile of other colours means nothing.
    """
    stated = metadata.colours
    if stated and stated.cicp:
        return colours.of_codes(*stated.cicp[:2])
    if metadata.icc:
        return colours.of_profile(metadata.icc, channels)
    if stated and stated.intent is None and (stated.gamma or stated.chromaticities):
        return colours.of_gamma(stated.gamma, stated.chromaticities)
    return colours.ADOBE_RGB if channels > 2 and exif.is_adobe_rgb(metadata.exif) else ""
