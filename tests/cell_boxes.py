"""Files of the newer formats with one thing in them, by writers that are not imageloom, for `cells`."""

from __future__ import annotations

import base64
import io
import struct
from typing import Any

import numpy as np
import pillow_heif
import pillow_jxl
import tifffile
from imagecodecs import brotli_decode, brotli_encode
from PIL import Image

from cell_files import EXIF_MAKE, TOKEN, XMP, exif, iptc
from faithful import saved

__all__ = ["pillow_jxl"]  # its import registers the plug-in

pillow_heif.register_heif_opener()
C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
JP2_EXIF = b"JpgTiffExif->JP2"
JP2_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
JP2_IPTC = bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38")


def box(name: bytes, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return struct.pack(">I", 8 + len(body)) + name + body


def boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and body of each box."""
    found, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4]) or len(data) - at
        found.append((data[at + 4 : at + 8], data[at + 8 : at + length]))
        at += length
    return found


def box_of(data: bytes, name: bytes, kind: bytes = b"") -> bytes:
    """The body of the first box with this name, whose body begins with `kind`; empty if there is none."""
    return next((body for found, body in boxes(data) if found == name and body.startswith(kind)), b"")


def jp2_block(data: bytes, thing: str) -> bytes:
    """A block of metadata of a JPEG 2000; empty if there is none, and for other formats."""
    kind = {"EXIF": JP2_EXIF, "XMP": JP2_XMP, "IPTC": JP2_IPTC}[thing]
    return box_of(data, b"uuid", kind)[16:] if data[4:8] == b"jP  " else b""


def jxl_block(data: bytes, name: bytes) -> bytes:
    """A block of metadata of a JPEG XL; empty if there is none, and for other formats."""
    if data[4:8] != b"JXL ":
        return b""
    packed = box_of(data, b"brob", name)
    return bytes(brotli_decode(packed[4:], out=10_000)) if packed else box_of(data, name)


def exif_block() -> bytes:
    return exif().tobytes().removeprefix(b"Exif\0\0")


# HEIF


def heif(image: Image.Image, *behind: bytes, **options: Any) -> bytes:
    return saved(image, "HEIF", quality=80, **options) + b"".join(behind)


def with_second(image: Image.Image, kind: bytes = b"", auxiliary: bytes = b"") -> bytes:
    """A HEIF with a second image: another page, or one that depends on the first.

    Args:
        kind: the type of the reference from the second image to the first.
        auxiliary: the type of an auxiliary image.
    """
    data = saved(image, "HEIF", save_all=True, append_images=[image.rotate(180)])
    if not kind:
        return data
    parts = dict(boxes(data))
    meta = boxes(parts[b"meta"][4:])
    inside = dict(meta)
    primary = int.from_bytes(inside[b"pitm"][4:6])
    items = [body for _, body in boxes(inside[b"iinf"][6:])]
    other = next(n for n in (int.from_bytes(item[4:6]) for item in items) if n != primary)
    properties = dict(boxes(inside[b"iprp"]))
    if auxiliary:
        place = 1 + len(boxes(properties[b"ipco"]))
        properties[b"ipco"] += box(b"auxC", bytes(4) + auxiliary + b"\0")
        properties[b"ipma"] = with_property(properties[b"ipma"], other, place)
    new = {
        **inside,
        b"iprp": b"".join(box(name, body) for name, body in properties.items()),
        b"iref": bytes(4) + box(kind, struct.pack(">HHH", other, 1, primary)),
    }
    grown = sum(8 + len(body) for body in new.values()) - sum(8 + len(body) for _, body in meta)
    new[b"iloc"] = moved(new[b"iloc"], grown)
    made = [box(name, body) for name, body in new.items()]
    order = {b"meta": box(b"meta", parts[b"meta"][:4], *made)}
    return b"".join(order.get(name, box(name, body)) for name, body in boxes(data))


def with_property(ipma: bytes, item: int, place: int) -> bytes:
    """The associations with one more for an item."""
    assert ipma[:4] == bytes(4)
    made, at = [ipma[:8]], 8
    while at < len(ipma):
        count = ipma[at + 2]
        own, found = ipma[at + 3 : at + 3 + count], int.from_bytes(ipma[at : at + 2])
        own += bytes((place,)) if found == item else b""
        made.append(ipma[at : at + 2] + bytes((len(own),)) + own)
        at += 3 + count
    return b"".join(made)


def moved(iloc: bytes, by: int) -> bytes:
    """The places of items, of which those in the file are further behind."""
    version, sizes = iloc[0], iloc[4]
    assert (version, sizes) in ((0, 0x44), (1, 0x44))
    base = iloc[5] >> 4
    made, at = [iloc[:8]], 8
    while at < len(iloc):
        head = 2 + (2 if version else 0) + 2 + base
        is_inside = bool(version and int.from_bytes(iloc[at + 2 : at + 4]) & 15)
        count = int.from_bytes(iloc[at + head : at + head + 2])
        made.append(iloc[at : at + head + 2])
        at += head + 2
        for _ in range(count):
            offset = int.from_bytes(iloc[at : at + 4]) + (0 if is_inside else by)
            made.append(struct.pack(">I", offset) + iloc[at + 4 : at + 8])
            at += 8
    return b"".join(made)


# JPEG XL


def jxl(image: Image.Image, *described: bytes, **options: Any) -> bytes:
    data = saved(image, "JXL", quality=90, use_container=True, **options)
    start, rest = data[:32], data[32:]
    return start + b"".join(described) + rest


def compressed(body: bytes) -> bytes:
    """A box of XMP that is compressed with Brotli."""
    return box(b"brob", b"xml ", bytes(brotli_encode(body)))


JXL_ANIMATED = bytes.fromhex(
    "ff0a07050158505c120808a002000068004b188b1500d41963303e2f2001002141a2322400c98f0141c6150808a042000064004b18"
    "8b1500d41363d0c4bf80040080935a00308210100aad0b"
)
"""Two frames of 48x32, by cjxl."""
JXL_DISPLAY_P3 = bytes.fromhex(
    "ff0a0741402637020802010064004b188b1500d41363307e2e100100209116002001e48f06ac01"
)
"""Primaries of P3 as a code, by cjxl."""
JXL_PROFILE = base64.b64decode(
    "/woHQRivSAMGAIABA0CYnApmAkjNoU3eOTOvK1RCKmg2UJeWgQYD/vZNWpmR6FRoaYYsIUJR1qWOMgJKGC7iw6PUMJUQkCRJqh9AkqTWz/rf"
    "rG/Vl5SWkJMSlpeX9mPAGteva5UBRts0FD/wv6C9/vH02ct7mb3t/OFwyN7vmqujskuIarqukS3sfbNE6hDORGSBvRvOewD2F11wPnsNigqQ"
    "AAOnzw/lazF+IexbKqtukXBKFwQZjwgqz+ViVV+sNQGlpdyo9UZroB0C2/5kKl+LdqCM4G3kEmuxf+hQ26w0FTrktd7UWo/0ZjL+fTDQ57je"
    "HuUuqt3+Dsrenaq3CAgCAQA8AEsYixWAHfp/AmgCADQTkQ=="
)
"""Gray with a profile of gamma 2.2, by cjxl."""


# JPEG 2000


def jp2(image: Image.Image, *boxes_behind: bytes, described: bytes = b"", **options: Any) -> bytes:
    """A file of Pillow with boxes in front of the codestream, and inside the header."""
    made: list[bytes] = []
    for name, body in boxes(saved(image, "JPEG2000", **options)):
        if name == b"jp2c":
            made += boxes_behind
        made.append(box(name, body + described if name == b"jp2h" else body))
    return b"".join(made)


def jp2_profile(image: Image.Image, icc: bytes) -> bytes:
    made = []
    for name, body in boxes(saved(image, "JPEG2000")):
        if name == b"jp2h":
            body = b"".join(
                box(b"colr", b"\2\0\0" + icc) if inside == b"colr" else box(inside, own)
                for inside, own in boxes(body)
            )
        made.append(box(name, body))
    return b"".join(made)


JP2_RESOLUTION = box(b"res ", box(b"resc", struct.pack(">HHHHbb", 30000, 254, 30000, 254, 2, 2)))
"""300 pixels per inch, in pixels per metre."""


def jp2_uuid(kind: bytes, body: bytes) -> bytes:
    return box(b"uuid", kind, body)


# Raw files, PDF, SVG


def dng(*tags: tuple[int, Any, int, Any, bool]) -> bytes:
    """A DNG of a smooth gray scene, without compression."""
    own: list[tuple[int, Any, int, Any, bool]] = [
        (33421, 3, 2, (2, 2), False),
        (33422, 1, 4, bytes((0, 1, 1, 2)), False),
        (50706, 1, 4, bytes((1, 4, 0, 0)), False),
        (50708, 2, 9, "Loom Test", False),
        (50721, 10, 9, (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1), False),
        (50728, 5, 3, (1, 1, 1, 1, 1, 1), False),
        (50778, 3, 1, 21, False),
    ]
    y, x = np.mgrid[0:48, 0:64]
    file = io.BytesIO()
    sensor = (x * 500 + y * 300).astype(np.uint16)
    resolution: dict[str, Any] = {"resolution": (300, 300), "resolutionunit": 2}
    tifffile.imwrite(
        file, sensor, photometric=32803, extratags=[*tags, *own], metadata=None, software=False, **resolution
    )
    return file.getvalue()


def dng_with(thing: str) -> bytes:
    tags: dict[str, tuple[int, Any, int, Any, bool]] = {
        "EXIF": (EXIF_MAKE, "s", 0, TOKEN, True),
        "XMP": (700, "B", len(XMP), XMP, True),
        "IPTC": (33723, "B", len(iptc()), iptc(), True),
    }
    return dng(*([tags[thing]] if thing in tags else []))


def pdf(image: Image.Image, **options: Any) -> bytes:
    return saved(image, "PDF", resolution=72, **options)


def pdf_with_attachment(image: Image.Image) -> bytes:
    import pypdfium2

    document = pypdfium2.PdfDocument(pdf(image))
    document.new_attachment("note.txt").set_data(TOKEN.encode())
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def svg(*inside: str) -> bytes:
    shape = '<rect width="24" height="32" fill="#c33"/>'
    size = 'width="48" height="32" viewBox="0 0 48 32"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(inside)}{shape}</svg>'.encode()
