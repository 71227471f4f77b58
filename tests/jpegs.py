"""JPEGs of odd kinds: made by Pillow, then changed byte by byte."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

from PIL import Image

from faithful import saved, scene, through
from imageloom.model import Pixels


def jpeg(pixels: Pixels | None = None, **options: Any) -> bytes:
    image = Image.fromarray(scene(3, width=97, height=75) if pixels is None else pixels)
    return saved(image, "JPEG", **({"quality": 95} | options))


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def inserted(data: bytes, more: bytes, before: int | None = None) -> bytes:
    """The file with bytes before the first segment of a kind; None: behind the JFIF segment."""
    at = 20 if before is None else data.index(bytes((0xFF, before)), 20)
    return data[:at] + more + data[at:]


def exif_segment(orientation: int, more: bytes = b"", entries: int = 1) -> bytes:
    """An EXIF block with an orientation and further entries of 12 bytes."""
    first = struct.pack("<HHII", 0x0112, 3, 1, orientation)
    return segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", entries) + first + more + bytes(4))


def packet(attributes: str = "", inner: str = "") -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="loom" {attributes}>'
        f"{inner}</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def xmp_segment(content: bytes) -> bytes:
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + content)


def both_ways(
    folder: Path, data: bytes, pipeline: str = "flip", name: str = "image.jpg", **options: Any
) -> bytes:
    """The output of a run, which is the same with and without tiles."""
    made = []
    for tile in ("never", "always"):
        (folder / tile).mkdir()
        made.append(through(folder / tile, data, pipeline, name=name, tile=tile, **options))
    assert made[0] == made[1]
    return made[0]


def pixels_of(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image
