"""The metadata of a file, as plain data: what codecs read, `adapt` corrects, and codecs write."""

from __future__ import annotations

from typing import Literal, NamedTuple

from imageloom.model import Plain, Thing

_INCH = 0.0254
"""Metres."""


class Density(Plain, frozen=True):
    """The resolution for print."""

    x: float
    """Pixels per unit."""
    y: float
    """Pixels per unit, downwards."""
    unit: Literal["inch", "cm", "none"] = "inch"
    """none: only the ratio of x and y has a meaning (the shape of a pixel)."""

    @property
    def per_metre(self) -> tuple[float, float]:
        """Pixels per metre; at least 72 per inch if only the ratio is known."""
        if self.unit == "none":
            least = min(self.x, self.y) * _INCH / 72
            return self.x / least, self.y / least
        metre = 100 if self.unit == "cm" else 1 / _INCH
        return self.x * metre, self.y * metre


class Text(Plain, frozen=True):
    """A text with a keyword, such as a PNG's Copyright; the comment of a JPEG has the keyword "Comment"."""

    keyword: str
    """What the text is, such as Copyright."""
    text: str
    """The text itself."""
    language: str = ""
    """The language of the text, such as `en`; empty if it is not stated."""
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
    intent: int | None = None
    """The rendering intent of sRGB, 0 to 3, if the file says that its colours are sRGB, as in PNG's sRGB."""

    @property
    def is_srgb(self) -> bool:
        """Whether the colours are sRGB: what readers assume of a file that says nothing."""
        if self.cicp:
            return self.cicp[:2] == (1, 13)
        near = all(abs(a - b) <= 15 for a, b in zip(self.chromaticities, _SRGB, strict=False))
        return self.intent is not None or (self.gamma in (0, 45_454, 45_455, 45_456) and near)


_SRGB = (31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)
"""The chromaticities of sRGB."""


class Luminance(Plain, frozen=True):
    """The luminance that an HDR image was made for."""

    display: bytes = b""
    """The mastering display, as in PNG's mDCV."""
    content: bytes = b""
    """The maximum luminance of a pixel and of the image's mean, as in PNG's cLLI."""


class Metadata(Plain, frozen=True):
    """The metadata of a file; each field has its default value if the file has none."""

    exif: bytes = b""
    """A TIFF structure, without the prefix that it has in a JPEG."""
    xmp: bytes = b""
    """The XMP packet."""
    extended_xmp: bytes = b""
    """The part of the XMP that does not fit into a JPEG's first packet. Other formats have one packet."""
    icc: bytes = b""
    """The colour profile."""
    iptc: bytes = b""
    """IPTC-IIM records, without the Photoshop block around them."""
    photoshop: bytes = b""
    """Other image resources of Photoshop that remain true: the copyright flag and its address."""
    density: Density | None = None
    """The resolution for print."""
    texts: tuple[Text, ...] = ()
    """Texts with keywords, and comments."""
    colours: Primaries | None = None
    """What the numbers of the pixels mean, if no profile says it."""
    gain_map: bytes = b""
    """The gain map of an Ultra HDR photo: a JPEG with its own XMP."""
    video: bytes = b""
    """The video of a motion photo."""
    georeference: bytes = b""
    """The tags of a GeoTIFF, as a TIFF structure of one directory."""
    luminance: Luminance | None = None
    """The luminance that an HDR image was made for."""
    chunks: bytes = b""
    """Chunks of a PNG that no other format can hold and that may be copied, whatever has changed: private ones
    marked as safe to copy, and the time of the last change."""
    found: tuple[Thing, ...] = ()
    """Other things of the file, which no output can hold: they are reported as dropped."""


NO_METADATA = Metadata()


class Carried(NamedTuple):
    """What an output takes along."""

    metadata: Metadata
    dropped: frozenset[Thing] = frozenset()
    """What the input has and the output lacks."""


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
        "HDR": metadata.luminance,
        "private metadata": metadata.chunks,
    }
    return {thing: value for thing, value in values.items() if value}
