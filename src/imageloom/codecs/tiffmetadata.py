"""The metadata of a TIFF: what its tags hold beside the pixels, and the tags for the metadata of an output."""

from __future__ import annotations

from fractions import Fraction

from imageloom.codecs import photoshop
from imageloom.codecs.bits import block
from imageloom.codecs.metadata import COMMENT, Density, Metadata, Primaries
from imageloom.codecs.tags import (
    EXIF,
    GPS,
    LONG,
    RATIONAL,
    TEXT,
    UNDEFINED,
    Entry,
    Order,
    Tree,
    Value,
    directory,
    in_order,
    laid_out,
    order_of,
    shorts,
    tree,
)
from imageloom.codecs.tifflayout import BLACK_IS_ZERO, CMYK, CONVERTED, beginning, others_of, whole
from imageloom.codecs.tiffparts import COLOURS, integers
from imageloom.model import Thing

_XMP, _ICC, _IPTC, _PHOTOSHOP, _LAYERS = 700, 34675, 33723, 34377, 37724
_X, _Y, _UNIT = 282, 283, 296
_UNITS = {1: "none", 2: "inch", 3: "cm"}
_WHITE, _PRIMARIES, _TRANSFER = 318, 319, 301
_GEOREFERENCE = frozenset((33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113, 50844))
"""GeoTIFF's scale, tie points, transformation and keys; GDAL's metadata and value for no data; RPCs."""
_DESCRIPTIVE = frozenset(
    [
        *(269, 270, 271, 272, _X, _Y, 285, _UNIT, 305, 306, 315, 316, 18246, 18249, 33432, 33434, 33437),
        *(34850, 34855, 36867, 36868, *range(37377, 37387), 37510, *range(40091, 40096), 42016),
        *(EXIF, GPS, *range(42032, 42038)),
    ]
)
"""Tags of the first directory that describe the picture, not its storage."""
_STORAGE = frozenset(
    [
        *(
            *range(254, 269),
            273,
            274,
            *range(277, 282),
            284,
            *range(288, 294),
            297,
            317,
            *range(320, 335),
            336,
        ),
        *(*range(337, 348), *range(512, 522), *range(529, 533), 559, *range(32995, 32999)),
    ]
)
"""Tags that say how the pixels are stored. Those of an output are its own."""
_BLOCKS = frozenset((_XMP, _ICC, _IPTC, _PHOTOSHOP, _LAYERS, _WHITE, _PRIMARIES, _TRANSFER))
KEYWORDS = {
    "Title": 269,
    "Description": 270,
    COMMENT: 270,
    "Software": 305,
    "Author": 315,
    "Copyright": 33432,
}
"""The tags that hold texts with these keywords."""
_TOP = 1 << 32


def read(data: bytes) -> Metadata:
    """The metadata of a file. EXIF becomes a separate block, made from the file's tags: offsets in maker notes may
    become invalid."""
    order, big, at = beginning(data)
    entries = directory(data, at, order, big).entries
    damaged: list[int] = []
    kept = tree(data, at, order, _DESCRIPTIVE.__contains__, big, damaged)
    georeference = tree(data, at, order, _GEOREFERENCE.__contains__, big, damaged)
    found: set[Thing] = set(others_of(whole(data)))
    space = integers(data, entries, order, COLOURS, BLACK_IS_ZERO)[0]
    if space == CMYK:
        found.add("CMYK")

    def held(tag: int, what: str) -> bytes:
        if tag not in entries:
            return b""
        value = block(data, entries[tag].at, entries[tag].size, what)
        if not value:
            damaged.append(tag)
        return value

    xmp, icc, iptc, resources = (
        held(tag, what)
        for tag, what in (
            (_XMP, "XMP"),
            (_ICC, "profile"),
            (_IPTC, "IPTC"),
            (_PHOTOSHOP, "Photoshop resources"),
        )
    )
    inside = photoshop.read(resources)
    if inside.has_thumbnail:
        found.add("thumbnail")
    if inside.has_others:
        found.add("Photoshop resources")
    records, lost = photoshop.chosen(_records(iptc, entries.get(_IPTC), order), inside.iptc)
    if lost or (iptc and not records):
        damaged.append(_IPTC)
    if _LAYERS in entries:
        found.add("layers")
    if entries.keys() - _DESCRIPTIVE - _STORAGE - _GEOREFERENCE - _BLOCKS:
        found.add("private metadata")
    colours = _colours(data, entries, order)
    if _TRANSFER in entries or (colours is None and entries.keys() & {_WHITE, _PRIMARIES}):
        found.add("colours")
    if damaged:
        found.add("damaged metadata")
    return Metadata(
        exif=_as_block(kept, order),
        xmp=xmp,
        icc=b"" if space in CONVERTED else icc,
        iptc=records,
        photoshop=inside.lasting,
        density=_density(kept, order) or (Density(*inside.density) if inside.density else None),
        colours=colours,
        georeference=_as_block(georeference, order),
        found=tuple(sorted(found)),
    )


def _as_block(branch: Tree, order: Order) -> bytes:
    """A TIFF structure of one directory; empty without tags."""
    start = (b"II*\0" if order == "little" else b"MM\0*") + (8).to_bytes(4, order)
    return start + laid_out(branch, 8, order) if branch else b""


def _of_block(data: bytes, order: Order, leave: frozenset[int] = frozenset()) -> Tree:
    """The directory of a TIFF structure, in a byte order."""
    if not data:
        return {}
    found = order_of(data)
    at = int.from_bytes(data[4:8], found)
    return in_order(tree(data, at, found, lambda tag: tag not in leave), found, order)


def _records(iptc: bytes, entry: Entry | None, order: Order) -> bytes:
    """IPTC records. Some programs write them as numbers of 32 bits, in the byte order of the file."""
    if iptc[:1] != b"\x1c" and entry is not None and entry.kind == LONG and order == "big":
        iptc = b"".join(iptc[at : at + 4][::-1] for at in range(0, len(iptc), 4))
    if iptc.startswith(b"8BIM"):
        iptc = photoshop.read(iptc).iptc
    return iptc if iptc[:1] == b"\x1c" else b""


def _rationals(value: Value | Tree | None, order: Order) -> list[float]:
    """The numbers of a tag with unsigned rationals; empty if it has others, or divides by zero."""
    if not isinstance(value, Value) or value.kind != RATIONAL:
        return []
    terms = [int.from_bytes(value.data[at : at + 4], order) for at in range(0, len(value.data), 4)]
    pairs = list(zip(terms[::2], terms[1::2], strict=False))
    return [] if any(below == 0 for _, below in pairs) else [above / below for above, below in pairs]


def _density(kept: Tree, order: Order) -> Density | None:
    x, y = _rationals(kept.get(_X), order), _rationals(kept.get(_Y), order)
    unit = kept.get(_UNIT)
    code = int.from_bytes(unit.data[:2], order) if isinstance(unit, Value) and unit.length else 2
    if not x or not y or min(x[0], y[0]) <= 0 or code not in _UNITS:
        return None
    return Density(x[0], y[0], _UNITS[code])  # type: ignore[arg-type]


def _colours(data: bytes, entries: dict[int, Entry], order: Order) -> Primaries | None:
    """The white point and the primaries, if both are stated."""
    values: list[float] = []
    for tag, count in ((_WHITE, 2), (_PRIMARIES, 6)):
        entry = entries.get(tag)
        if entry is None or entry.size != 8 * count or entry.at + entry.size > len(data):
            return None
        value = Value(entry.kind, entry.length, data[entry.at : entry.at + entry.size])
        values += _rationals(value, order)
    return Primaries(chromaticities=tuple(round(v * 100_000) for v in values)) if len(values) == 8 else None


def tags_of(metadata: Metadata) -> tuple[Order, Tree]:
    """The byte order of an output, and the tags that hold its metadata."""
    order = order_of(metadata.exif) if metadata.exif else "little"
    tags = _of_block(metadata.exif, order, _STORAGE | _BLOCKS)
    tags |= _of_block(metadata.georeference, order)
    tags |= _density_tags(metadata.density, tags, order)
    for text in metadata.texts:
        if text.keyword in KEYWORDS:
            _add_text(tags, KEYWORDS[text.keyword], text.text)
    for tag, kind, data in (
        (_XMP, 1, metadata.xmp),
        (_ICC, UNDEFINED, metadata.icc),
        (_IPTC, UNDEFINED, metadata.iptc),
        (_PHOTOSHOP, 1, photoshop.written(metadata.iptc, metadata.photoshop) if metadata.photoshop else b""),
    ):
        if data:
            tags[tag] = Value(kind, len(data), data)
    return order, {tag: value for tag, value in tags.items() if value}


def _density_tags(density: Density | None, tags: Tree, order: Order) -> Tree:
    """The tags of a density, where those of the EXIF block say another one."""
    if density is None or density == _density(tags, order):
        return {}
    sides = [Fraction(side).limit_denominator(1_000_000) for side in (density.x, density.y)]
    if not all(0 < side.numerator < _TOP for side in sides):
        return {}
    unit = next(code for code, name in _UNITS.items() if name == density.unit)
    return {_X: _fractions(order, sides[0]), _Y: _fractions(order, sides[1]), _UNIT: shorts(order, unit)}


def _fractions(order: Order, *values: Fraction) -> Value:
    terms = [term.to_bytes(4, order) for value in values for term in (value.numerator, value.denominator)]
    return Value(RATIONAL, len(values), b"".join(terms))


def _add_text(tags: Tree, tag: int, text: str) -> None:
    """Add a text to a tag, which may hold several, unless it is there."""
    there, new = tags.get(tag), text.replace("\0", "").encode()
    before = there.data.rstrip(b"\0") if isinstance(there, Value) and there.kind == TEXT else b""
    if new and new not in before.split(b"\0"):
        data = (before + b"\0" if before else b"") + new + b"\0"
        tags[tag] = Value(TEXT, len(data), data)
