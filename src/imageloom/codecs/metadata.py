"""The metadata of a file, as plain data: what codecs read, `adapt` corrects, and codecs write."""

from __future__ import annotations

from typing import Literal

from imageloom.model import Plain, Thing


class Density(Plain, frozen=True):
    """The resolution for print."""

    x: float
    """Pixels per unit."""
    y: float
    unit: Literal["inch", "cm", "none"] = "inch"
    """none: only the ratio of x and y has a meaning (the shape of a pixel)."""


class Text(Plain, frozen=True):
    """A text with a keyword, such as a PNG's Copyright; the comment of a JPEG has the keyword "Comment"."""

    keyword: str
    text: str
    language: str = ""
    translated: str = ""
    """The keyword in this language."""


COMMENT = "Comment"
"""The keyword of a comment."""


class Primaries(Plain, frozen=True):
    """What the numbers of pixels mean, if no profile says it."""

    cicp: tuple[int, int, int, int] | None = None
    """Colour primaries, transfer characteristics, matrix coefficients, full range flag (ITU-T H.273)."""
    gamma: int = 0
    """The exponent of the file times 100,000, as in PNG's gAMA; 0 if it is not stated."""
    chromaticities: tuple[int, ...] = ()
    """x and y of white, red, green and blue times 100,000, as in PNG's cHRM; empty if they are not stated."""


class Metadata(Plain, frozen=True):
    """The metadata of a file; each field has its default value if the file has none."""

    exif: bytes = b""
    """A TIFF structure, without the prefix that it has in a JPEG."""
    xmp: bytes = b""
    extended_xmp: bytes = b""
    """The part of the XMP that does not fit into a JPEG's first packet. Only JPEG has it."""
    icc: bytes = b""
    """The colour profile."""
    iptc: bytes = b""
    """IPTC-IIM records, without the Photoshop block around them."""
    photoshop: bytes = b""
    """Other image resources of Photoshop that remain true: the copyright flag and its address."""
    density: Density | None = None
    texts: tuple[Text, ...] = ()
    colours: Primaries | None = None
    gain_map: bytes = b""
    """The gain map of an Ultra HDR photo: a JPEG with its own XMP."""
    video: bytes = b""
    """The video of a motion photo."""
    georeference: bytes = b""
    """The tags of a GeoTIFF, as a TIFF structure of one directory."""
    found: tuple[Thing, ...] = ()
    """Other things of the file, which no output can hold: they are reported as dropped."""


NO_METADATA = Metadata()


def things(metadata: Metadata) -> set[Thing]:
    """What the metadata contains, without what is in `found`."""
    return set(held(metadata))


def held(metadata: Metadata) -> dict[Thing, object]:
    """The same with the value of each thing."""
    values: dict[Thing, object] = {
        "EXIF": metadata.exif,
        "XMP": metadata.xmp,
        "extended XMP": metadata.extended_xmp,
        "colour profile": metadata.icc,
        "IPTC": metadata.iptc,
        "density": metadata.density,
        "Photoshop resources": metadata.photoshop,
        "comment": any(text.keyword == COMMENT for text in metadata.texts),
        "text": any(text.keyword != COMMENT for text in metadata.texts),
        "colours": metadata.colours,
        "gain map": metadata.gain_map,
        "video": metadata.video,
        "georeference": metadata.georeference,
    }
    return {thing: value for thing, value in values.items() if value}
