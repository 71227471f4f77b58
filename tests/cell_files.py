"""Files with one thing in them beside the picture, by writers that are not imageloom, for `cells`."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from faithful import saved

TOKEN = "loom 7419 token"
"""A text that is in no file by chance."""
EXIF_MAKE = 0x010F
XMP = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    f'xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="{TOKEN}"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
).encode()
_RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'


def exif() -> Image.Exif:
    block = Image.Exif()
    block[EXIF_MAKE] = TOKEN
    return block


# JPEG


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg(image: Image.Image, *segments: bytes, **options: Any) -> bytes:
    data = saved(image, "JPEG", quality=90, **options)
    end = 2
    while data[end + 1] == 0xE0:
        end += 2 + int.from_bytes(data[end + 2 : end + 4], "big")
    return data[:end] + b"".join(segments) + data[end:]


def iptc() -> bytes:
    return b"\x1c\x02\x50" + struct.pack(">H", len(TOKEN)) + TOKEN.encode()


def photoshop(resource: int = 0x0404, body: bytes = b"") -> bytes:
    """A block of Photoshop with one resource; 0x0404 is IPTC."""
    body = body or iptc()
    padded = body + b"\0" * (len(body) % 2)
    head = b"Photoshop 3.0\0" + b"8BIM" + struct.pack(">HHI", resource, 0, len(body))
    return head + padded


JUMBF = b"JP\0\1\0\0\0\1" + struct.pack(">I", 36) + b"jumb" + struct.pack(">I", 28) + b"jumdc2pa" + bytes(16)
"""A segment of content credentials (C2PA)."""


def with_extended_xmp(image: Image.Image) -> bytes:
    rest = f'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="{TOKEN}"/>'
    packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {_RDF}>{rest}</rdf:RDF></x:xmpmeta>'.encode()
    digest = hashlib.md5(packet).hexdigest().upper()
    note = 'xmlns:xmpNote="http://ns.adobe.com/xmp/note/"'
    first = xmp_segment(f'<rdf:Description rdf:about="" {note} xmpNote:HasExtendedXMP="{digest}"/>')
    head = b"http://ns.adobe.com/xmp/extension/\0" + digest.encode() + struct.pack(">II", len(packet), 0)
    return jpeg(image, first, segment(0xE1, head + packet))


def xmp_segment(description: str) -> bytes:
    packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {_RDF}>{description}</rdf:RDF></x:xmpmeta>'
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet.encode())


def _container(items: str) -> str:
    return (
        'xmlns:Container="http://ns.google.com/photos/1.0/container/" '
        'xmlns:Item="http://ns.google.com/photos/1.0/container/item/">'
        f"<Container:Directory><rdf:Seq>{items}</rdf:Seq></Container:Directory></rdf:Description>"
    )


def _entry(kind: str, semantic: str, length: int) -> str:
    size = f' Item:Length="{length}"' if length else ""
    return (
        f'<rdf:li rdf:parseType="Resource"><Container:Item Item:Mime="{kind}" Item:Semantic="{semantic}"{size}/>'
        "</rdf:li>"
    )


def with_gain_map(image: Image.Image) -> bytes:
    gains = saved(image.convert("L"), "JPEG", quality=90)
    hdr = 'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"'
    own = xmp_segment(f'<rdf:Description rdf:about="" {hdr} hdrgm:GainMapMax="2"/>')
    gains = gains[:2] + own + gains[2:]
    items = _entry("image/jpeg", "Primary", 0) + _entry("image/jpeg", "GainMap", len(gains))
    return jpeg(image, xmp_segment(f'<rdf:Description rdf:about="" {hdr} {_container(items)}')) + gains


def with_video(image: Image.Image) -> bytes:
    video = (
        b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + struct.pack(">I", 8 + len(TOKEN)) + b"mdat" + TOKEN.encode()
    )
    items = _entry("image/jpeg", "Primary", 0) + _entry("video/mp4", "MotionPhoto", len(video))
    camera = (
        'xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1" '
        'GCamera:MotionPhotoVersion="1"'
    )
    return jpeg(image, xmp_segment(f'<rdf:Description rdf:about="" {camera} {_container(items)}')) + video


# PNG


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(image: Image.Image, *chunks: bytes, **options: Any) -> bytes:
    data = saved(image, "PNG", **options)
    return data[:33] + b"".join(chunks) + data[33:]


def text_chunks() -> PngInfo:
    info = PngInfo()
    info.add_text("Copyright", TOKEN)
    info.add_text("parameters", TOKEN, zip=True)
    info.add_itxt("Description", TOKEN)
    return info


def xmp_chunk() -> PngInfo:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    return info


def animated(image: Image.Image, format: str) -> bytes:
    return saved(image, format, save_all=True, append_images=[image.rotate(180)], duration=100)


# TIFF


def tiff(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    kind = "rgb" if image.mode == "RGB" else "minisblack"
    tifffile.imwrite(file, np.asarray(image), photometric=kind, metadata=None, **options)
    return file.getvalue()


def geotiff(image: Image.Image) -> bytes:
    tags = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 5e5, 4e6, 0.0), True),
        (34735, "H", 8, (1, 1, 0, 1, 1024, 0, 1, 1), True),
    ]
    return tiff(image, extratags=tags)


def commented(image: Image.Image) -> bytes:
    data = saved(image, "PPM")
    return data[:3] + f"# {TOKEN}\n".encode() + data[3:]
