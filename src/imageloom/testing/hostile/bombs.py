"""Hostile files that make a decoder use much memory or time: a few kilobytes, or sparse files of gigabytes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from imageloom import codecs
from imageloom.model import Encoding
from imageloom.testing.hostile.file import Hostile
from imageloom.testing.hostile.handmade import good_files
from imageloom.testing.raw import bmp, bomb, gif, picture, png, riff, scans, tiff

_GB = 1 << 30
_SHORT, _LONG, _BYTES = 3, 4, 7


_Value = int | tuple[int, int, int]
"""The value of a tag: a number, or its type, its number of values, and the value or offset."""


def files() -> Iterator[Hostile]:
    """Yield all bombs."""
    good = good_files()
    yield from _tiffs(good["jpeg"])
    yield from _directories()
    yield from _jpegs(good["jpeg"])
    yield from _pngs()
    yield from _avifs()
    yield from _others(good["webp"])


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _flat_jpeg(side: int) -> bytes:
    """A JPEG with one colour."""
    file = io.BytesIO()
    Image.new("L", (side, side), 128).save(file, "JPEG", quality=50)
    return file.getvalue()


def _tags(part: bytes, **changed: _Value) -> dict[int, tuple[int, int, int]]:
    """The tags of a gray image of 16x16 pixels in one strip, at offset 512."""
    plain = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 273: 512, 277: 1, 278: 16, 279: len(part)}
    tags = {tag: (_LONG, 1, value) for tag, value in plain.items()}
    for name, value in changed.items():
        tags[int(name[1:])] = value if isinstance(value, tuple) else (_LONG, 1, value)
    return tags


def _file(tags: dict[int, tuple[int, int, int]], part: bytes, link: int = 0) -> bytes:
    used = 8 + 2 + 12 * len(tags) + 4
    return tiff(tags, part, link=link, data=bytes(512 - used))


def _tiffs(photo: bytes) -> Iterator[Hostile]:
    plain = _flat_jpeg(64)
    start = plain.index(b"\xff\xc0")
    large = plain[: start + 5] + struct.pack(">HH", 40_000, 40_000) + plain[start + 9 :]
    small = plain[: start + 5] + struct.pack(">HH", 16, 16) + plain[start + 9 :]
    tiles: dict[str, _Value] = {"t322": 16, "t323": 16, "t324": 512, "t325": len(large)}
    yield Hostile("strip-of-a-large-jpeg.tif", _file(_tags(large, t259=7), large))
    yield Hostile("tile-of-a-large-jpeg.tif", _file(_tags(large, t259=7, **tiles), large))
    two = small[: start + 13] + large[start:]
    yield Hostile("jpeg-with-two-frames.tif", _file(_tags(two, t259=7), two))
    hidden = b"\xff\xd8\xff\0\0\x13" + small[start : start + 17] + large[2:]
    yield Hostile("jpeg-behind-a-marker-of-nothing.tif", _file(_tags(hidden, t259=7), hidden))
    tables = (_BYTES, len(large), 512)
    yield Hostile("tables-with-pixels.tif", _file(_tags(photo, t259=7, t347=tables), large))
    many = scans(1024, 800)
    size: dict[str, _Value] = {"t256": 1024, "t257": 1024, "t278": 1024}
    yield Hostile("strip-of-800-scans.tif", _file(_tags(many, t259=7, **size), many))
    for name, packing, data in (
        ("lzw", 5, b"\x80\0" + b"\xff" * 60_000),
        ("deflate", 8, bomb(50)),
        ("packbits", 32773, b"\x81\0" * 60_000),
    ):
        yield Hostile(f"strip-bomb-of-{name}.tif", _file(_tags(data, t259=packing), data), harmless=None)
    rows = bytes(256)
    for name, tag, value in (
        ("two-colour-kinds", 262, (_SHORT, 2, 1 | 1 << 16)),
        ("two-compressions", 259, (_SHORT, 2, 1 | 1 << 16)),
        ("two-widths", 256, (_SHORT, 2, 16 | 16 << 16)),
        ("two-planes", 284, (_SHORT, 2, 1 | 1 << 16)),
    ):
        yield Hostile(f"{name}.tif", _file(_tags(rows, **{f"t{tag}": value}), rows), harmless=None)
    odd: dict[str, dict[str, _Value]] = {
        "bits-of-0": {"t258": 0},
        "bits-of-64": {"t258": 64},
        "channels-of-65535": {"t277": 65_535},
        "parts-of-1-pixel": {"t322": 1, "t323": 1, "t324": 512, "t325": 1},
        "width-as-float": {"t256": (11, 1, 0x41800000)},
        "width-as-fraction": {"t256": (5, 1, 512)},
        "width-as-text": {"t256": (2, 3, 0x3631)},
        "predictor-of-floats": {"t317": 3},
        "predictor-of-99": {"t317": 99},
        "compression-of-99": {"t259": 99},
        "planes-of-9": {"t284": 9},
        "filling-of-9": {"t266": 9},
        "strips-of-2-gb": {"t278": 1 << 31, "t257": 1 << 31},
        "bytes-of-2-gb": {"t279": 1 << 31},
        "strips-in-gigabytes-of-offsets": {"t273": (_LONG, 1 << 29, 512), "t279": (_LONG, 1 << 29, 512)},
        "subdirectories-in-a-loop": {"t330": (_LONG, 1, 8)},
    }
    for name, changed in odd.items():
        yield Hostile(f"{name}.tif", _file(_tags(rows, **changed), rows), harmless=None)
    gaps: dict[str, _Value] = {
        "t700": (1, (1 << 31) - 4096, 4096),
        "t34675": (_BYTES, (1 << 31) - 4096, 4096),
    }
    yield Hostile("metadata-of-2-gb.tif", _file(_tags(rows, **gaps), rows), harmless=None, size=2 * _GB)
    yield Hostile("strip-in-a-hole.tif", _file(_tags(rows, t273=_GB), rows), harmless=None, size=2 * _GB)
    count = 60_000
    table = struct.pack("<I", 512) * count + struct.pack("<I", 500_000) * count
    lying: dict[str, _Value] = {"t256": 16, "t257": count, "t278": 1, "t259": 8}
    lying |= {"t273": (_LONG, count, 512), "t279": (_LONG, count, 512 + 4 * count)}
    packed = table + zlib.compress(np.random.default_rng(1).bytes(600_000))
    yield Hostile("60000-strips-on-each-other.tif", _file(_tags(rows, **lying), packed))


def _directories() -> Iterator[Hostile]:
    """Chains of directories with many tags each."""
    tags, step = 60_000, 14
    within = bytearray(b"II*\0" + struct.pack("<I", 8) + bytes(740_000))
    for at in range(8, 8 + 900 * step, step):  # each starts inside the directory before
        struct.pack_into("<H", within, at, tags)
        struct.pack_into("<I", within, at + 2 + 12 * tags, at + step)
    yield Hostile("overlapping-directories.tif", bytes(within))
    entries = b"".join(struct.pack("<HHII", tag, _BYTES, 60_000, 8) for tag in range(60_000))
    many = b"II*\0" + struct.pack("<IH", 8, 60_000) + entries + struct.pack("<I", 8)
    yield Hostile("loop-of-60000-tags.tif", many)
    chain = b"".join(struct.pack("<HHHIII", 1, 256, _LONG, 1, 1, 8 + 18 * (i + 1)) for i in range(100_000))
    yield Hostile("100000-directories.tif", b"II*\0" + struct.pack("<I", 8) + chain)
    for name, count in (("billion", 1 << 30), ("most", (1 << 64) - 1)):
        data = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, count) + bytes(1000)
        yield Hostile(f"{name}-tags.tif", data, size=3 * _GB)
    place = b"II+\0" + struct.pack("<HHQ", 8, 0, (1 << 64) - 8)
    yield Hostile("directory-at-the-end-of-64-bits.tif", place)


def _jpegs(good: bytes) -> Iterator[Hostile]:
    start = good.index(b"\xff\xc0")
    flat = _flat_jpeg(1024)
    scan = flat[flat.index(b"\xff\xda") : -2]
    yield Hostile("6000-baseline-scans.jpg", _several(6000))
    yield Hostile("40-baseline-scans.jpg", _several(40), harmless=None)
    yield Hostile("gray-of-300-scans.jpg", flat[:-2] + scan * 300 + b"\xff\xd9", harmless=None)
    video = np.random.default_rng(2).bytes(12 << 20)
    yield Hostile("motion-photo.jpg", good + video, harmless=True)
    yield Hostile("motion-photo-in-scans.jpg", scans(1024, 9) + video, harmless=True)
    behind = good[2:]
    yield Hostile(
        "10000-segments.jpg", b"\xff\xd8" + _segment(0xED, bytes(1000)) * 10_000 + behind, harmless=True
    )
    yield Hostile("1000000-segments.jpg", b"\xff\xd8" + _segment(0xED, b"") * 1_000_000 + behind)
    huge = good[: start + 5] + b"\xff\xdc\xff\xdc" + good[start + 9 : start + 19]
    yield Hostile(
        "frame-behind-a-marker-of-nothing.jpg", b"\xff\xd8\xff\0\0\x15" + huge + behind, harmless=None
    )
    yield Hostile("segments-in-a-hole.jpg", good[:-2] + b"\xff\xed", harmless=None, size=_GB)
    tables = _segment(0xC4, b"\0" + bytes(16)) * 200 + _segment(0xDB, b"\0" + b"\1" * 64) * 200
    yield Hostile("tables.jpg", b"\xff\xd8" + tables + behind, harmless=None)
    restart = _segment(0xDD, b"\0\1")
    yield Hostile("restart-of-each-block.jpg", good[:start] + restart + good[start:], harmless=None)
    last = good.index(b"\xff\xda") + 14
    marks = b"".join(bytes((0xFF, 0xD0 + i % 8)) for i in range(200_000))
    yield Hostile(
        "restarts-alone.jpg", good[:start] + restart + good[start:last] + marks + b"\xff\xd9", harmless=None
    )
    for name, height in (("defined-later", 0), ("defined-twice", 48)):
        lines = (
            good[: start + 5]
            + struct.pack(">H", height)
            + good[start + 7 : -2]
            + b"\xff\xdc\0\4\xff\xff\xff\xd9"
        )
        yield Hostile(f"height-{name}.jpg", lines, harmless=None)


def _several(count: int) -> bytes:
    """A baseline colour JPEG of 512x512 pixels, with one component per scan."""
    side = 512
    code = bytes((1, *bytes(15)))
    parts = [
        b"\xff\xd8",
        _segment(0xDB, b"\0" + b"\1" * 64),
        _segment(0xC0, struct.pack(">BHHB", 8, side, side, 3) + b"\1\x11\0\2\x11\0\3\x11\0"),
        _segment(0xC4, b"\0" + code + b"\0" + b"\x10" + code + b"\0"),
    ]
    blocks = (side // 8) ** 2
    several = [_segment(0xDA, bytes((1, 1 + i % 3, 0, 0, 63, 0))) + bytes(blocks // 4) for i in range(count)]
    return b"".join((*parts, *several, b"\xff\xd9"))


def _pngs() -> Iterator[Hostile]:
    from imageloom.codecs.chunks import chunk

    rows = zlib.compress(bytes(11 * 10))
    head = png(10, 10, rows)[:33]
    yield Hostile("hole.png", head, size=3 * _GB)
    yield Hostile("chunk-of-2-gb.png", head + struct.pack(">I4s", (1 << 31) - 1, b"teXt"), size=3 * _GB)
    yield Hostile("exif-of-1-gb.png", head + struct.pack(">I4s", _GB, b"eXIf"), size=3 * _GB)
    yield Hostile("profile-of-1-gb.png", head + struct.pack(">I4s", _GB, b"iCCP"), size=3 * _GB)
    near = zlib.compress(bytes(15 << 20), 9)
    xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + near)
    yield Hostile("1000-xmp-bombs.png", png(10, 10, rows, *[xmp] * 1000), harmless=None)
    profile = chunk(b"iCCP", b"a\0\0" + near[:-4])
    yield Hostile("1000-cut-profiles.png", png(10, 10, rows, *[profile] * 1000), harmless=None)
    yield Hostile("1000000-chunks.png", png(10, 10, rows, chunk(b"teXt", b"") * 1_000_000))
    text = chunk(b"tEXt", b"a\0" + b"b" * (20 << 20))
    yield Hostile("text-of-20-mb.png", png(10, 10, rows, text), harmless=True)


def _avifs() -> Iterator[Hostile]:
    flat = codecs.get("avif").encode(np.full((3000, 3000, 3), 90, np.uint8), Encoding(30))
    at = flat.index(b"ispe")

    def sized(width: int, height: int) -> bytes:
        return flat[: at + 8] + struct.pack(">II", width, height) + flat[at + 16 :]

    yield Hostile("says-less-than-it-is.avif", sized(16, 16))
    yield Hostile("says-one-row.avif", sized(3000, 1))
    yield Hostile("says-more-than-it-is.avif", sized(8000, 8000))
    place = flat.index(b"iloc")
    for name, value, harmless in (("nothing", 0, False), ("much", 0x4408, None)):
        places = flat[: place + 8] + struct.pack(">H", value) + flat[place + 10 :]
        yield Hostile(f"places-of-{name}.avif", places, harmless)
    yield Hostile("box-of-2-gb.avif", flat[:32] + struct.pack(">I4s", (1 << 31) - 1, b"meta"), size=3 * _GB)
    yield Hostile("hole.avif", flat[:32] + struct.pack(">I4s", 8, b"free") * 100, size=3 * _GB)
    yield Hostile("1000000-boxes.avif", flat[:32] + struct.pack(">I4s", 8, b"free") * 1_000_000 + flat[32:])


def _others(webp: bytes) -> Iterator[Hostile]:
    exif = (b"VP8X", bytes((8, 0, 0, 0)) + b"\x3f\0\0\x2f\0\0")
    file = riff(exif, (b"VP8 ", webp[20:]))
    yield Hostile("hole.webp", file, size=3 * _GB)
    yield Hostile("1000000-chunks.webp", file + struct.pack("<4sI", b"none", 0) * 1_000_000)
    yield Hostile("exif-of-1-gb.webp", file + struct.pack("<4sI", b"EXIF", _GB), harmless=None, size=2 * _GB)
    comments = (b"\x21\xfe\xff" + b"a" * 255 + b"\0") * 50_000
    yield Hostile("50000-comment-blocks.gif", gif(comments + picture(16, 16)), harmless=True)
    yield Hostile("hole.gif", gif(picture(16, 16))[:-1], size=3 * _GB)
    short = b"\x21\xfe" + b"\1a" * 5_000_000 + b"\0"
    yield Hostile("5000000-blocks.gif", gif(short + picture(16, 16)))
    large = picture(60_000, 60_000, data=b"\2\1\x0c\0")
    yield Hostile("picture-larger-than-its-screen.gif", gif(large, size=(16, 16)))
    yield Hostile("hole.pgm", b"P5 10 10 255 " + bytes(100), harmless=None, size=3 * _GB)
    yield Hostile("plain-with-more-than-it-says.pgm", b"P2 2 2 255 " + b"1 " * 3_000_000, harmless=True)
    yield Hostile("hole.bmp", bmp(10, 10, 24, 0, bytes(320), start=54), harmless=None, size=3 * _GB)
    yield Hostile("rows-of-runs.bmp", bmp(4096, 4096, 8, 1, b"\1\1" * 500_000 + b"\0\1"), harmless=None)
