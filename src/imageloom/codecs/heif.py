"""HEIC and HEIF with HEVC images, through libheif (pillow-heif). 10 and 12 bits are decoded to 16.

The decoder applies the file's own turns and crops (irot, imir, clap), so that images are upright: the orientation
in the EXIF block is not applied. The primary image is read; others are reported as pages.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np

from imageloom.codecs import hevc, isobmff
from imageloom.codecs.bits import Data, MoreNeeded, number
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.isobmff import Items
from imageloom.codecs.libraries import library
from imageloom.codecs.metadata import NO_METADATA, Metadata, Primaries
from imageloom.codecs.stated import colours_of
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import DType, Encoding, Format, Frame, Header, Pixels, Thing

_CODED = frozenset((b"hvc1", b"grid", b"iden", b"iovl"))
_DEPTH = frozenset((b"urn:mpeg:hevc:2015:auxid:2", b"urn:mpeg:mpegB:cicp:systems:auxiliary:depth"))
_ALPHA = frozenset((b"urn:mpeg:hevc:2015:auxid:1", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha"))
_MOST_WRITTEN = 16_384
_BITS = 10
"""Bits per channel that 16-bit pixels are written with: more are not decoded by most programs."""
_SRGB = {(1, 13), (2, 2)}
"""Primaries and transfer characteristics of sRGB and of colours that are not stated."""


class _Picture(NamedTuple):
    """The primary image of a file."""

    frame: Frame
    bits: int
    coded: int
    """Number of coded pixels."""


_PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow"),
)
"""Those of x265, by effort."""


class Heif:
    format: Format = "heif"
    quality = 80
    encoder_bytes = 60
    written: Format = "heif"
    settings = ("effort", "lossless", "subsampling")
    carries: tuple[Thing, ...] = ("EXIF", "XMP", "colour profile", "colours")
    only_codes = True
    also_reads: tuple[Thing, ...] = ("density", "HDR")
    always_drops: tuple[Thing, ...] = (
        "animation",
        "auxiliary images",
        "content credentials",
        "damaged metadata",
        "depth map",
        "gain map",
        "pages",
        "private metadata",
        "thumbnail",
        "video",
    )

    def header(self, head: Data) -> Header:
        return self.page_header(head, 0, 0)

    def page_header(self, head: Data, page: int, density: int) -> Header:
        """The header of an image of the file. The first page is the primary image."""
        items = isobmff.items_of(head)
        pages = _pages(items)
        chosen = items._replace(primary=pages[min(page, len(pages) - 1)])
        frame = _picture(chosen).frame
        icc, stated = _colours(chosen)
        meant = colours_of(Metadata(icc=icc, colours=stated), frame.channels)
        return Header("heif", frame, colours=meant, page=page, pages=len(pages))

    def cannot_hold(self, frame: Frame) -> str | None:
        if frame.dtype == "float32":
            return "HEIF is written with 8 or 10 bits, not float32: choose --format tiff"
        if max(frame.width, frame.height) > _MOST_WRITTEN:
            return f"HEIF is written with at most {_MOST_WRITTEN} pixels per side, not {frame}"
        return None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        heif = _library()
        items, data = _of_page(data, header.page)
        picture = _picture(items)
        if picture.coded > 4 * picture.frame.pixels + (1 << 22):
            raise CorruptImage(f"it has {picture.coded:,} coded pixels for an image of {picture.frame}")
        try:
            image = heif.open_heif(data, convert_hdr_to_8bit=False, hdr_to_16bit=False)
            primary = image[image.primary_index]
            pixels: Pixels = np.asarray(primary)
        except (ValueError, EOFError, SyntaxError, RuntimeError, OSError) as error:
            raise CorruptImage(f"the HEIF cannot be decoded: {error}") from None
        if primary.premultiplied_alpha:
            pixels = _divided(pixels)
        return _full_range(pixels, picture.bits) if pixels.dtype == np.uint16 else pixels

    def metadata(self, data: bytes) -> Metadata:
        return self.page_metadata(data, 0)

    def page_metadata(self, data: bytes, page: int) -> Metadata:
        """The metadata of an image of the file."""
        items, _ = _of_page(data, page)
        exif, xmp = b"", b""
        found = _others(items, data)
        for item in items.sources(b"cdsc", items.primary):
            kind = items.kinds.get(item)
            block = isobmff.item_bytes(data, items, item)
            if kind == b"Exif":
                exif = exif or isobmff.exif_of(block)
            elif kind == b"mime:application/rdf+xml":
                xmp = xmp or block
            else:
                found.add("private metadata")
            if not block:
                found.add("damaged metadata")
        icc, colours = _colours(items)
        return Metadata(
            exif,
            xmp,
            icc=icc,
            density=isobmff.aspect(items),
            colours=colours,
            luminance=isobmff.luminance(items),
            found=tuple(sorted(found)),
        )

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        """Encode with x265 in the calling thread only, with 4:2:0 subsampling unless it is lossless."""
        heif = _library()
        channels = 1 if image.ndim == 2 else image.shape[2]
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
        if image.dtype == np.uint16:
            mode, image = f"{mode};{_BITS}", _reduced(image)
        file, made = io.BytesIO(), heif.HeifFile()
        added = made.add_frombytes(mode, (image.shape[1], image.shape[0]), image.tobytes())
        if metadata.icc:
            added.info["icc_profile"] = metadata.icc
        primaries, transfer = _written_colours(metadata.colours)
        made.save(
            file,
            quality=-1 if encoding.lossless else encoding.quality,
            chroma=444 if encoding.lossless else int(encoding.subsampling or 420),
            matrix_coefficients=0 if encoding.lossless else 6,
            color_primaries=primaries,
            transfer_characteristics=transfer,
            enc_params={"x265:pools": "none", "x265:frame-threads": "1"} | _preset(encoding),
            exif=metadata.exif or None,
            xmp=metadata.xmp or None,
        )
        return file.getvalue()


def _preset(encoding: Encoding) -> dict[str, str]:
    return {"preset": _PRESETS[encoding.effort - 1]} if encoding.effort else {}


def _library() -> Any:
    heif = library("pillow_heif", "HEIC and HEIF", "heif")
    heif.options.DECODE_THREADS = 1
    heif.options.THUMBNAILS = heif.options.DEPTH_IMAGES = heif.options.AUX_IMAGES = False
    return heif


def _picture(items: Items) -> _Picture:
    """The primary image, from its description.

    Raises:
        UnsupportedImage: its images are not coded with HEVC.
        CorruptImage: it has no size.
    """
    kind = items.kinds.get(items.primary)
    if kind is None:
        raise CorruptImage("the HEIF has no primary image")
    if kind not in _CODED:
        raise UnsupportedImage(
            f"HEIF with images of the type {kind.decode(errors='replace')} is not supported"
        )
    parts = _parts(items)
    unknown = {items.kinds.get(part, b"none") for part in parts} - {b"hvc1"}
    if unknown or not parts:
        names = ", ".join(sorted(kind.decode(errors="replace") for kind in unknown)) or "no parts"
        raise UnsupportedImage(f"HEIF with images of the type {names} is not supported")
    try:
        coded = [hevc.coding(items.find(part, b"hvcC") or b"") for part in parts]
        width, height = _displayed(items)
    except MoreNeeded:
        raise CorruptImage("the description of the HEIF's image is cut off") from None
    alpha = any(_auxiliary(items, item) in _ALPHA for item in items.sources(b"auxl", items.primary))
    alpha = alpha or any(
        _auxiliary(items, item) in _ALPHA for part in parts for item in items.sources(b"auxl", part)
    )
    channels = 1 if coded[0].gray and not alpha else 4 if alpha else 3
    dtype: DType = "uint16" if coded[0].bits > 8 else "uint8"
    total = sum(picture.width * picture.height for picture in coded)
    return _Picture(Frame(width, height, channels, dtype), coded[0].bits, total)


def _pages(items: Items) -> list[int]:
    """The images that are no part, thumbnail or auxiliary image of another one: the primary one first."""
    depending = {reference.source for reference in items.references if reference.kind in (b"auxl", b"thmb")}
    for reference in items.references:
        if reference.kind == b"dimg":
            depending.update(reference.targets)
    pictures = (item for item, kind in items.kinds.items() if kind in _CODED and item not in items.hidden)
    return [items.primary, *(item for item in pictures if item not in depending | {items.primary})]


def _of_page(data: bytes, page: int) -> tuple[Items, bytes]:
    """The items and the bytes of a file in which the image of a page is the primary one."""
    items = isobmff.items_of(data)
    if not page:
        return items, data
    chosen, old = _pages(items)[page], items.boxes[b"pitm"]
    wide = 4 if old[0] else 2
    new = old[:4] + chosen.to_bytes(wide) + old[4 + wide :]
    changed = data[: len(data)].replace(b"pitm" + old, b"pitm" + new, 1)
    return items._replace(primary=chosen), changed


def _parts(items: Items) -> list[int]:
    """The coded images that the primary image is made of."""
    found, seen = [], {items.primary}
    waiting = [items.primary]
    while waiting:
        item = waiting.pop()
        if items.kinds.get(item) not in _CODED - {b"hvc1"}:
            found.append(item)
            continue
        for part in items.targets(b"dimg", item):
            if part not in seen:
                seen.add(part)
                waiting.append(part)
    return sorted(found)


def _displayed(items: Items) -> tuple[int, int]:
    """Width and height of the primary image after its crops and turns, in the order of its properties."""
    width, height = items.size(items.primary)
    for name, body in items.properties[items.primary]:
        if name == b"irot" and number(body, 0, 1) & 1:
            width, height = height, width
        elif name == b"clap":
            wide, high = (number(body, at, 4) // max(1, number(body, at + 4, 4)) for at in (0, 8))
            if wide > width or high > height:
                raise CorruptImage("the HEIF's crop is larger than its image")
            width, height = wide, high
    return width, height


def _auxiliary(items: Items, item: int) -> bytes:
    """The type of an auxiliary image."""
    return (items.find(item, b"auxC") or b"")[4:].split(b"\0")[0]


def _others(items: Items, data: bytes) -> set[Thing]:
    """What the file has beside its images, and what belongs to its images."""
    found = isobmff.beside(data)
    auxiliary = {reference.source for reference in items.references if reference.kind == b"auxl"}
    kinds = {_auxiliary(items, item) for item in auxiliary}
    if kinds & _DEPTH:
        found.add("depth map")
    if any(b"gainmap" in kind for kind in kinds) or b"tmap" in items.kinds.values():
        found.add("gain map")
    if any(kind not in _DEPTH | _ALPHA and b"gainmap" not in kind for kind in kinds):
        found.add("auxiliary images")
    if any(reference.kind == b"thmb" for reference in items.references):
        found.add("thumbnail")
    return found


def _colours(items: Items) -> tuple[bytes, Primaries | None]:
    """The profile and the stated colours of the primary image. Decoded pixels are RGB in full range."""
    icc, stated = b"", None
    described = [items.primary, *_parts(items)[:1]]
    if items.find(items.primary, b"colr"):
        described = [items.primary]
    for name, body in (one for item in described for one in items.properties.get(item, ())):
        if name == b"colr" and body[:4] in (b"prof", b"rICC"):
            icc = body[4:]
        elif name == b"colr" and body[:4] == b"nclx":
            primaries, transfer = number(body, 4, 2), number(body, 6, 2)
            if (primaries, transfer) not in _SRGB:
                stated = Primaries((primaries, transfer, 0, 1))
    return icc, stated


def _written_colours(colours: Primaries | None) -> tuple[int, int]:
    """Primaries and transfer characteristics to write: those of sRGB if nothing else is stated."""
    return colours.cicp[:2] if colours and colours.cicp else (1, 13)


def _full_range(pixels: Pixels, bits: int) -> Pixels:
    """Values of some bits, scaled to 16 bits."""
    top = (1 << bits) - 1
    table = (np.arange(1 << 16, dtype=np.uint32).clip(max=top) * 65535 + top // 2) // top
    scaled: Pixels = table.astype(np.uint16)[pixels]
    return scaled


def _reduced(pixels: Pixels) -> Pixels:
    """16-bit values, rounded to the bits that are written."""
    top = (1 << _BITS) - 1
    reduced: Pixels = ((pixels.astype(np.uint32) * top + 32767) // 65535).astype(np.uint16)
    return reduced


def _divided(pixels: Pixels) -> Pixels:
    """Colours that were multiplied by their alpha, divided by it."""
    from imageloom.codecs.tifflayout import divided_by_alpha  # imported late: it is seldom needed

    return divided_by_alpha(pixels)
