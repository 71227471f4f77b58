"""AVIF of 8, 10 and 12 bits, through Pillow and OpenCV. Gray with alpha is written as RGBA.

Of a sequence, the still image that the file has for readers of still images is read.
"""

from __future__ import annotations

import importlib
import io

import cv2
import numpy as np

from imageloom import colours
from imageloom.codecs import av1, isobmff, pillow
from imageloom.codecs.bits import Data, block, number
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.isobmff import Items, all_items, brands, complete_boxes, items_of
from imageloom.codecs.metadata import NO_METADATA, Metadata, Primaries
from imageloom.codecs.stated import colours_of
from imageloom.errors import CorruptImage, LimitExceeded, UnsupportedImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing

_TURNS = {
    (0, None): 1, (0, 0): 4, (0, 1): 2,
    (1, None): 8, (1, 0): 5, (1, 1): 7,
    (2, None): 3, (2, 0): 2, (2, 1): 4,
    (3, None): 6, (3, 0): 7, (3, 1): 5,
}  # fmt: skip
"""The EXIF orientation for a number of counter-clockwise quarter turns (irot) followed by a mirror (imir: 0 top to
bottom, 1 left to right), see ISO/IEC 23008-12, 6.5.10 and 6.5.12. The orientation in the EXIF block is ignored."""
_IMAGES = (b"av01", b"grid", b"iovl", b"iden")
_LOSSLESS = (0, 16, 17)
"""Matrix coefficients that keep RGB exactly: files use them to be lossless."""
_UNSPECIFIED = (0, 2)
_EMPTY_BLOCK = b"II*\0\x08\0\0\0" + bytes(6)
"""An EXIF block of no tags."""
_TOP = 65_535
_SUBSAMPLINGS = {"444": "4:4:4", "440": "4:4:4", "422": "4:2:2", "420": "4:2:0", "411": "4:2:0"}
"""The nearest one that AVIF has."""


class Avif:
    format: Format = "avif"
    quality = 60
    encoder_bytes = 60
    written: Format = "avif"
    settings = ("effort", "lossless", "subsampling")
    carries: tuple[Thing, ...] = ("EXIF", "XMP", "colour profile", "colours")
    only_codes = True
    also_reads: tuple[Thing, ...] = ("density", "HDR")
    always_drops: tuple[Thing, ...] = (
        "animation",
        "content credentials",
        "extra samples",
        "gain map",
        "pages",
        "private metadata",
        "thumbnail",
        "video",
    )
    gray_in_colour = (2,)

    def header(self, head: Data) -> Header:
        """The properties of the primary item (ISO/IEC 23008-12, 6.4 and 9.3)."""
        items = items_of(head)
        primary = items.primary
        if primary not in items.properties:
            raise CorruptImage("the AVIF has no primary item")
        if items.kinds.get(primary) not in _IMAGES:
            raise UnsupportedImage(
                "AVIF with another kind of image than AV1 or a grid of it is not supported"
            )
        if items.find(primary, b"clap") is not None:
            raise UnsupportedImage("AVIF with a clean aperture is not supported")
        bits, gray = _depth(items)
        alpha = any(b":alpha" in (items.find(item, b"auxC") or b"") for item in items.properties)
        if gray and alpha and bits > 8:
            raise UnsupportedImage(f"AVIF of {bits} bits in gray with alpha is not supported")
        turned, mirrored = (items.find(primary, name) for name in (b"irot", b"imir"))
        turns = number(turned, 0, 1) & 3 if turned is not None else 0
        mirror = number(mirrored, 0, 1) & 1 if mirrored is not None else None
        frame = Frame(*items.size(primary), (1 if gray else 3) + alpha, "uint16" if bits > 8 else "uint8")
        nclx = _codes(items)
        return Header(
            "avif",
            frame,
            orientation=_TURNS[turns, mirror],
            lossless=len(nclx) >= 10 and int.from_bytes(nclx[8:10]) in _LOSSLESS,
            colours=_stated(items, frame.channels),
        )

    def cannot_hold(self, frame: Frame) -> str | None:
        if frame.dtype == "float32":
            return f"AVIF supports 8 to 12 bits, not {frame.dtype}: choose --format tiff"
        if max(frame.width, frame.height) > 16_384:
            return f"AVIF is written with at most 16384 pixels per side, not {frame.width}x{frame.height}"
        return None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        items = items_of(data)
        _check_grids(data, items)
        _check_pictures(data, items, header.frame)
        still = _still(data)
        if header.frame.dtype == "uint16":
            return _deep(still, header.frame, _depth(items)[0])
        return pillow.decoded(pillow.opened(still, "Avif"), header.frame)

    def metadata(self, data: bytes) -> Metadata:
        items = items_of(data)
        _check_grids(data, items)
        info = pillow.opened(_still(data), "Avif").info
        xmp, icc = (info.get(kind) or b"" for kind in ("xmp", "icc_profile"))
        xmp, icc = (block(part, 0, len(part), "metadata") for part in (xmp, icc))
        return Metadata(
            exif=_exif(data, items),
            xmp=xmp,
            icc=icc,
            density=isobmff.aspect(items),
            colours=None if icc else _colours(data, items),
            luminance=isobmff.luminance(items),
            found=tuple(sorted(_others(data, items))),
        )

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        """Encode with libaom: at speed 6, or 10 less the effort; lossy with 4:2:0 subsampling, if no other one is
        asked for. 10 or 12 bits of 16 are kept, always with 4:2:0."""
        if image.ndim == 3 and image.shape[2] == 2:
            image = np.dstack([image[:, :, 0]] * 3 + [image[:, :, 1]])
        if image.dtype == np.uint16 or encoding.lossless:
            data = _encoded_by_opencv(image, encoding, metadata)
        else:
            data = _encoded_by_pillow(image, encoding, metadata)
        cicp = metadata.colours.cicp if metadata.colours else None
        if cicp is None or metadata.icc:
            return data
        at = data.index(b"colrnclx") + 8
        return b"".join((data[:at], cicp[0].to_bytes(2), cicp[1].to_bytes(2), data[at + 4 :]))


def _exif(data: bytes, items: Items) -> bytes:
    """The EXIF block as it is stored: Pillow writes an orientation into it, which moves values."""
    described = items.sources(b"cdsc", items.primary)
    found = (item for item in described if items.kinds.get(item) == b"Exif")
    return next((isobmff.exif_of(isobmff.item_bytes(data, items, item)) for item in found), b"")


def _depth(items: Items) -> tuple[int, bool]:
    """The bits per sample of the primary item, and whether it is gray."""
    item = items.primary
    described = (items.find(each, b"av1C") for each in (item, *items.targets(b"dimg", item)))
    flags = number(next(filter(None, described), bytes(3)), 2, 1)
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8, bool(flags & 0x10)


def _still(data: bytes) -> bytes:
    """The file without its sequence: libavif prefers a sequence, whose frames are not checked here."""
    if b"avis" not in brands(data):
        return data
    still = bytearray(data)
    for name, at, start, end in complete_boxes(data):
        if name == b"ftyp":
            still[start:end] = data[start:end].replace(b"avis", b"avif").replace(b"msf1", b"mif1")
        elif name == b"moov":
            still[at + 4 : at + 8] = b"free"
    return bytes(still)


def _deep(data: bytes, frame: Frame, bits: int) -> Pixels:
    """Decode 10 or 12 bits, to the full range of 16 bits."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise CorruptImage(f"the AVIF cannot be decoded: {error.err}") from None
    if image is None or image.shape[:2] != (frame.height, frame.width) or image.dtype != np.uint16:
        raise CorruptImage("the AVIF cannot be decoded: it is cut off or damaged")
    top = (1 << bits) - 1
    pixels = ((image.astype(np.uint32) * _TOP + top // 2) // top).astype(np.uint16)
    have = 1 if pixels.ndim == 2 else pixels.shape[2]
    if (have, frame.channels) == (1, 1):
        return pixels
    orders: dict[tuple[int, int], list[int]] = {(3, 3): [2, 1, 0], (4, 4): [2, 1, 0, 3], (4, 2): [0, 3]}
    if (have, frame.channels) not in orders:
        raise UnsupportedImage(f"AVIF of {bits} bits in {frame.channels} channels is not supported")
    return np.ascontiguousarray(pixels[:, :, orders[have, frame.channels]])


def _speed(encoding: Encoding) -> int:
    """The speed of libaom: 9 (fast) to 1 (small files)."""
    return 10 - encoding.effort if encoding.effort else 6


def _encoded_by_pillow(image: Pixels, encoding: Encoding, metadata: Metadata) -> bytes:
    """Pillow gets an empty EXIF block of the same size, whose place the true one takes: it would remove the
    orientation from that, which moves values, so that offsets in maker notes become invalid."""
    file = io.BytesIO()
    blank = _EMPTY_BLOCK.ljust(len(metadata.exif), b"\0") if len(metadata.exif) >= len(_EMPTY_BLOCK) else None
    try:
        importlib.import_module("PIL.Image").fromarray(image).save(
            file,
            "AVIF",
            quality=encoding.quality,
            speed=_speed(encoding),
            subsampling=_SUBSAMPLINGS[encoding.subsampling or "420"] if image.ndim == 3 else "4:0:0",
            max_threads=1,
            exif=blank,
            xmp=metadata.xmp or None,
            icc_profile=metadata.icc or None,
        )
    except RuntimeError as error:
        kind = LimitExceeded if "memory" in str(error) else UnsupportedImage
        raise kind(f"it cannot be encoded as AVIF: {error}") from None
    return file.getvalue().replace(blank, metadata.exif, 1) if blank else file.getvalue()


def _encoded_by_opencv(image: Pixels, encoding: Encoding, metadata: Metadata) -> bytes:
    options = [
        cv2.IMWRITE_AVIF_SPEED,
        _speed(encoding),
        cv2.IMWRITE_AVIF_QUALITY,
        100 if encoding.lossless else encoding.quality,
    ]
    if image.dtype == np.uint16:
        bits = 10 if _has_ten_bits(image) else 12
        top = (1 << bits) - 1
        image = ((image.astype(np.uint32) * top + _TOP // 2) // _TOP).astype(np.uint16)
        options += [cv2.IMWRITE_AVIF_DEPTH, bits]
    if image.ndim == 3:
        image = image[:, :, [2, 1, 0, 3][: image.shape[2]]]
    blocks = {
        cv2.IMAGE_METADATA_EXIF: metadata.exif,
        cv2.IMAGE_METADATA_XMP: metadata.xmp,
        cv2.IMAGE_METADATA_ICCP: metadata.icc,
    }
    there = {kind: np.frombuffer(body, np.uint8) for kind, body in blocks.items() if body}
    image = np.ascontiguousarray(image)
    return cv2.imencodeWithMetadata(".avif", image, list(there), list(there.values()), options)[1].tobytes()


def _has_ten_bits(image: Pixels) -> bool:
    """Whether 10 bits say as much as the 16."""
    ten = (image.astype(np.uint32) * 1023 + _TOP // 2) // _TOP
    return bool(((ten * _TOP + 511) // 1023 == image).all())


def _stated(items: Items, channels: int) -> str:
    """What the boxes `colr` state, as a text of `colours`: a profile before codes (ISO/IEC 14496-12, 12.1.5)."""
    profiles = (items.find(items.primary, b"colr", kind) for kind in (b"prof", b"rICC"))
    if profile := next(filter(None, profiles), b""):
        return colours_of(Metadata(icc=profile[4:]), channels)
    nclx = _codes(items)
    return colours.of_codes(number(nclx, 4, 2), number(nclx, 6, 2)) if nclx else ""


def _codes(items: Items) -> bytes:
    """The property that states colours by codes."""
    return items.find(items.primary, b"colr", b"nclx") or b""


def _check_pictures(data: bytes, items: Items, frame: Frame) -> None:
    """Check that the coded images have the size in the file's header, because the decoder uses their own size.

    Raises:
        CorruptImage: they have another size, or more pixels than the tiles of the image and of its alpha need.
    """
    total = 0
    for item, picture in all_items(data, items):
        if items.kinds.get(item) != b"av01":
            continue
        size, said = av1.sequence(picture).size, items.size(item)
        if size != said:
            raise CorruptImage(
                f"the AVIF's image is {size[0]}x{size[1]}, but its header says {said[0]}x{said[1]}"
            )
        total += size[0] * size[1]
    if total > 4 * frame.pixels + (1 << 22):
        raise CorruptImage(f"the AVIF has {total:,} pixels for a size of {frame.width}x{frame.height}")


def _check_grids(data: bytes, items: Items) -> None:
    """Check that each grid has its tiles.

    Raises:
        CorruptImage: tiles are missing, or named twice, or are no images.
    """
    if b"grid" not in items.kinds.values():
        return
    for item, body in all_items(data, items):
        if items.kinds.get(item) == b"grid":
            tiles = list(items.targets(b"dimg", item))
            count = (number(body, 2, 1) + 1) * (number(body, 3, 1) + 1)
            coded = {tile for tile in tiles if items.kinds.get(tile) == b"av01"}
            if len(tiles) != count or len(coded) != count:
                raise CorruptImage(f"the AVIF's grid of tiles is not valid: it needs {count} different tiles")


def _colours(data: bytes, items: Items) -> Primaries | None:
    """The colours of the decoded pixels, if they are stated: by the file, or by its first image."""
    nclx = _codes(items)
    if len(nclx) >= 8:
        stated = (int.from_bytes(nclx[4:6]), int.from_bytes(nclx[6:8]))
    else:
        pictures = (picture for item, picture in all_items(data, items) if items.kinds.get(item) == b"av01")
        stated = (av1.sequence(next(pictures, b"")).colours or (2, 2, 2))[:2]
    if {*stated} <= {*_UNSPECIFIED} or max(stated) > 255:
        return None
    return Primaries(cicp=(*stated, 0, 1))


def _others(data: bytes, items: Items) -> set[Thing]:
    """What the file has beside its image."""
    found = isobmff.beside(data)
    if b"tmap" in items.kinds.values():
        found.add("gain map")
    shown = {items.primary}
    for kind, source, targets in items.references:
        if kind == b"dimg":
            shown.update(targets)
        elif kind == b"thmb":
            shown.add(source)
            found.add("thumbnail")
        elif kind == b"auxl":
            shown.add(source)
            if b":alpha" not in (items.find(source, b"auxC") or b""):
                found.add("extra samples")
    if any(kind in _IMAGES and item not in shown for item, kind in items.kinds.items()):
        found.add("pages")
    return found
