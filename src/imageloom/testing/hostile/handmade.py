"""Hand-made hostile files, each for a known kind of fault in image readers."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from imageloom import codecs
from imageloom.bench.samples import draw_photo
from imageloom.codecs.chunks import chunk
from imageloom.codecs.segments import MOST_SCANS
from imageloom.model import Encoding, Format
from imageloom.testing.hostile.file import Hostile
from imageloom.testing.raw import bmp, bomb, gif, picture, png, riff, scans, tiff


def files() -> Iterator[Hostile]:
    """Yield all hand-made files."""
    good = good_files()
    yield from _cut_and_swapped(good)
    yield from _pngs(good["png"])
    yield from _jpegs(good["jpeg"])
    yield from _gifs()
    yield from _tiffs(good["tiff"])
    yield from _webps(good["webp"])
    yield from _bmps(good["bmp"])
    yield from _pnms()
    yield from _avifs(good["avif"])


def good_files() -> dict[Format, bytes]:
    """A small image in each format that can be read."""
    photo = draw_photo(7, 64, 48)
    skipped = ("zarr", "heif")  # a folder, and a format whose library may not be installed
    written = [f for f in codecs.formats() if codecs.get(f).written == f and f not in skipped]
    good: dict[Format, bytes] = {f: codecs.get(f).encode(photo, Encoding(80)) for f in written}
    good["gif"] = gif(picture(16, 16))
    return good


def _cut_and_swapped(good: dict[Format, bytes]) -> Iterator[Hostile]:
    noise = np.random.default_rng(3).bytes(5000)
    for format, data in good.items():
        suffix = codecs.suffixes(format)[0]
        for share in (8, 2):
            yield Hostile(f"cut-at-1-{share}.{suffix}", data[: len(data) // share])
        yield Hostile(
            f"cut-by-10.{suffix}", data[:-10], format == "png"
        )  # only the end of the file is missing
        yield Hostile(f"magic-alone.{suffix}", data[:12])
        yield Hostile(f"noise-behind-magic.{suffix}", data[:12] + noise)
        yield Hostile(f"one-byte.{suffix}", data[:1])
        unchecked = format in ("bmp", "pnm", "webp")  # any bytes are pixels there
        yield Hostile(f"zeros-behind-header.{suffix}", data[:30] + bytes(len(data) - 30), unchecked)
    yield Hostile("empty.jpg", b"")
    yield Hostile("noise.jpg", noise)
    yield Hostile("page.jpg", b"<!doctype html><img src=x onerror=alert(1)>" * 20)
    yield Hostile("wrong-suffix.jpg", good["png"], harmless=True)
    yield Hostile("archive-behind.png", good["png"] + b"PK\3\4" + noise, harmless=True)
    yield Hostile("script-in-gif.gif", gif(picture(16, 16), comment=b"*/=1;alert(1)//"), harmless=True)
    yield Hostile("png-behind-jpeg.jpg", good["jpeg"] + good["png"], harmless=True)


# PNG


def _pngs(good: bytes) -> Iterator[Hostile]:
    rows = zlib.compress(bytes(11 * 10))
    large = bomb(100)
    yield Hostile("text-bomb.png", png(10, 10, rows, chunk(b"zTXt", b"a\0\0" + large)), harmless=True)
    xmp = b"XML:com.adobe.xmp\0\1\0\0\0"
    yield Hostile("xmp-bomb.png", png(10, 10, rows, chunk(b"iTXt", xmp + large)))
    yield Hostile("profile-bomb.png", png(10, 10, rows, chunk(b"iCCP", b"a\0\0" + large)))
    yield Hostile("pixel-bomb.png", png(10, 10, large), harmless=True)
    yield Hostile("expands-too-far.png", png(20_000, 20_000, bomb(2)))
    yield Hostile("few-pixels-of-many.png", png(8000, 8000, rows))
    yield Hostile("over-the-limit.png", png(30_000, 30_000, rows))
    yield Hostile("largest.png", png((1 << 31) - 1, (1 << 31) - 1, rows))
    yield Hostile("negative.png", png((1 << 32) - 1, 5, rows))
    yield Hostile("nothing-wide.png", png(0, 10, rows))
    yield Hostile("depth-of-3.png", png(10, 10, rows, bits=3))
    yield Hostile("colour-of-5.png", png(10, 10, rows, kind=5))
    yield Hostile("unknown-interlace.png", png(10, 10, rows, interlaced=9))
    yield Hostile("no-palette.png", png(10, 10, rows, kind=3))
    yield Hostile("palette-of-none.png", png(10, 10, rows, chunk(b"PLTE", b""), kind=3))
    yield Hostile("no-zlib.png", png(10, 10, b"not a stream"))
    yield Hostile("no-pixels.png", png(10, 10, b""))
    yield Hostile("colour-key-of-one-byte.png", png(10, 10, rows, chunk(b"tRNS", b"a")), True)
    frames = chunk(b"acTL", struct.pack(">II", 100_000, 0))
    yield Hostile("100000-frames.png", png(10, 10, rows, frames), True)
    late = frames + chunk(b"fcTL", bytes(26)) * 1000
    yield Hostile("late-frames.png", good[:-12] + late + good[-12:], harmless=True)
    yield Hostile("100000-texts.png", png(10, 10, rows, chunk(b"tEXt", b"a\0b") * 100_000), harmless=True)
    yield Hostile("100000-empty-chunks.png", png(10, 10, rows, chunk(b"IDAT", b"") * 100_000), harmless=True)
    yield Hostile("two-headers.png", png(10, 10, rows, good[8:33]), True)
    yield Hostile("endless-chunk.png", good[:33] + b"\xff\xff\xff\xfftEXt" + good[33:])
    yield Hostile("end-first.png", good[:33] + chunk(b"IEND", b"") + good[33:])
    for name, at in (("header", 20), ("pixels", 60)):
        yield Hostile(f"bit-of-the-{name}.png", good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :])
    for name, exif in exifs():
        yield Hostile(f"exif-{name}.png", png(10, 10, rows, chunk(b"eXIf", exif)), harmless=True)


def exifs() -> Iterator[tuple[str, bytes]]:
    """Invalid EXIF blocks."""
    pointer = struct.pack("<HHIIHHII", 0x8769, 4, 1, 8, 0x8825, 4, 1, 8)
    yield "loop", b"II*\0" + struct.pack("<IH", 8, 2) + pointer + struct.pack("<I", 8)
    yield "far", b"II*\0" + struct.pack("<I", 0xFFFFFFF0)
    yield "many", b"MM\0*" + struct.pack(">IH", 8, 0xFFFF) + bytes(12) * 5000
    huge = struct.pack("<HHII", 0x10F, 2, 0xFFFFFFFF, 0) * 5000
    yield "huge", b"II*\0" + struct.pack("<IH", 8, 5000) + huge + bytes(4)
    overlapping = b"".join(struct.pack("<HHII", tag, 7, 60_000, 8) for tag in range(5000))
    yield "overlapping", b"II*\0" + struct.pack("<IH", 8, 5000) + overlapping + bytes(4)


# JPEG


def _jpegs(good: bytes) -> Iterator[Hostile]:
    frame = good.index(b"\xff\xc0")
    behind = good[2:]

    def sized(width: int, height: int) -> bytes:
        return good[: frame + 5] + struct.pack(">HH", height, width) + good[frame + 9 :]

    def segment(marker: int, body: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body

    yield Hostile("over-the-limit.jpg", sized(65_000, 65_000))
    yield Hostile("expands-too-far.jpg", sized(20_000, 20_000))
    yield Hostile("few-pixels-of-many.jpg", sized(4600, 4600))
    yield Hostile("nothing-wide.jpg", sized(0, 10))
    yield Hostile("height-comes-later.jpg", sized(64, 0))
    for name, marker, harmless in (
        ("lossless", 0xC3, False),
        ("hierarchical", 0xC5, False),
        ("arithmetic", 0xC9, None),
    ):
        yield Hostile(f"{name}.jpg", good[: frame + 1] + bytes((marker,)) + good[frame + 2 :], harmless)
    for name, at, value in (
        ("12-bits", 4, 12),
        ("no-components", 9, 0),
        ("sampling-of-none", 11, 0),
        ("sampling", 11, 0x44),
    ):
        yield Hostile(f"{name}.jpg", good[: frame + at] + bytes((value,)) + good[frame + at + 1 :])
    yield Hostile("two-frames.jpg", good[:frame] + good[frame : frame + 19] + good[frame:])
    yield Hostile("segment-of-1-byte.jpg", b"\xff\xd8\xff\xe0\0\1" + behind, harmless=True)
    yield Hostile("nothing-in-it.jpg", b"\xff\xd8\xff\xd9")
    yield Hostile("no-tables.jpg", good[:20] + good[frame:])
    yield Hostile("megabytes-of-filling.jpg", b"\xff\xd8" + b"\xff" * (2 << 20) + behind, harmless=True)
    yield Hostile("comments.jpg", b"\xff\xd8" + segment(0xFE, bytes(65_000)) * 100 + behind, harmless=True)
    part = b"ICC_PROFILE\0\1\xff" + bytes(60_000)
    yield Hostile("300-profiles.jpg", b"\xff\xd8" + segment(0xE2, part) * 300 + behind, None)
    parts = (segment(0xE2, b"ICC_PROFILE\0" + bytes((i, 255)) + bytes(65_000)) for i in range(1, 256))
    yield Hostile("profile-of-16-mb.jpg", b"\xff\xd8" + b"".join(parts) + behind, harmless=True)
    extended = b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 32 + b"\xff\xff\xff\xff" + bytes(4)
    yield Hostile("xmp-of-4-gb.jpg", b"\xff\xd8" + segment(0xE1, extended) * 1000 + behind, harmless=True)
    for name, exif in exifs():
        block = segment(0xE1, (b"Exif\0\0" + exif)[:65_000])
        yield Hostile(f"exif-{name}.jpg", b"\xff\xd8" + block + behind, harmless=True)
    yield Hostile("800-scans.jpg", scans(1024, 800))
    yield Hostile("most-scans-of-much.jpg", scans(4096, MOST_SCANS), harmless=True)
    start = good.index(b"\xff\xda") + 14
    yield Hostile("restarts.jpg", good[:start] + b"\xff\xd0\xff\xd1" * 50_000 + good[start:])


def _gifs() -> Iterator[Hostile]:
    yield Hostile("100000-pictures.gif", gif(picture(1, 1) * 100_000), True)
    yield Hostile("expands-too-far.gif", gif(picture(60_000, 8000, data=b"\2\1\x0c\0"), size=(60_000, 8000)))
    yield Hostile("few-pixels-of-many.gif", gif(picture(4600, 4600, data=b"\2\1\x0c\0"), size=(4600, 4600)))
    yield Hostile("over-the-limit.gif", gif(picture(16, 16), size=(65_535, 65_535)))
    yield Hostile("outside.gif", gif(picture(16, 16, at=60_000)))
    yield Hostile("nothing-wide.gif", gif(picture(0, 0), size=(0, 0)))
    yield Hostile("no-picture.gif", gif())
    yield Hostile("no-end.gif", gif(picture(16, 16))[:-1], True)
    yield Hostile("codes-of-60-bits.gif", gif(picture(16, 16, data=b"\x3c\2ab\0")))
    yield Hostile("codes-of-nothing.gif", gif(picture(16, 16, data=b"\2\4\xff\xff\xff\xff\0")))
    long = b"\2" + b"\1\0" * 1_000_000 + b"\0"
    yield Hostile("blocks-of-one-byte.gif", gif(picture(16, 16, data=long)), harmless=True)
    yield Hostile(
        "comments.gif", gif(b"\x21\xfe" + b"\1a" * 1_000_000 + b"\0", picture(16, 16)), harmless=True
    )


# TIFF


def _tiffs(good: bytes) -> Iterator[Hostile]:
    long, most = 4, 0xFFFFFFFF
    plain = {256: 10, 257: 10, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: 10, 279: 100}

    def with_tags(**changed: int | tuple[int, int, int] | None) -> dict[int, tuple[int, int, int]]:
        tags: dict[int, tuple[int, int, int]] = {tag: (long, 1, value) for tag, value in plain.items()}
        for name, value in changed.items():
            tag = int(name[1:])
            if value is None:
                del tags[tag]
            else:
                tags[tag] = value if isinstance(value, tuple) else (long, 1, value)
        return tags

    pixels = bytes(1000)
    far = struct.pack("<H", 0xFFFF)
    yield Hostile("plain.tif", tiff(with_tags(), pixels), harmless=True)
    yield Hostile("loop.tif", tiff(with_tags(), pixels, link=8), harmless=True)
    yield Hostile("page-behind-the-end.tif", tiff(with_tags(), pixels, link=most))
    yield Hostile("65535-tags.tif", b"II*\0" + struct.pack("<I", 8) + far + bytes(12 * 100))
    yield Hostile("directory-behind-the-end.tif", b"II*\0" + struct.pack("<I", most))
    yield Hostile("directory-in-the-header.tif", b"II*\0" + struct.pack("<I", 0) + bytes(100))
    yield Hostile("big-and-far.tif", b"II+\0" + struct.pack("<HHQ", 8, 0, 1 << 63))
    yield Hostile("expands-too-far.tif", tiff(with_tags(t256=20_000, t257=20_000, t278=20_000), pixels))
    yield Hostile("few-pixels-of-many.tif", tiff(with_tags(t256=8000, t257=8000, t278=8000), pixels))
    yield Hostile("over-the-limit.tif", tiff(with_tags(t256=most, t257=most), pixels))
    yield Hostile("nothing-wide.tif", tiff(with_tags(t256=0), pixels))
    yield Hostile(
        "strips-without-number.tif", tiff(with_tags(t273=(long, most, 8), t279=(long, most, 8)), pixels)
    )
    yield Hostile("strip-of-4-gb.tif", tiff(with_tags(t279=most), pixels), harmless=True)
    yield Hostile("strip-of-nothing.tif", tiff(with_tags(t279=0), pixels))
    yield Hostile("strip-behind-the-end.tif", tiff(with_tags(t273=most), pixels))
    yield Hostile("strips-of-no-rows.tif", tiff(with_tags(t278=0), pixels))
    yield Hostile("no-strips.tif", tiff(with_tags(t273=None), pixels))
    yield Hostile("depths-without-number.tif", tiff(with_tags(t258=(3, most, 8)), pixels))
    yield Hostile("depth-of-60000.tif", tiff(with_tags(t258=60_000), pixels))
    yield Hostile("60000-channels.tif", tiff(with_tags(t277=60_000), pixels))
    yield Hostile("unknown-type.tif", tiff(with_tags(t256=(99, 1, 5)), pixels))
    tiles = {"t322": 0, "t323": 0, "t324": 200, "t325": 100}
    yield Hostile("tiles-of-no-pixels.tif", tiff(with_tags(**tiles), pixels))
    tiles |= {"t322": 1 << 31, "t323": 1 << 31}
    yield Hostile("tiles-of-too-many-pixels.tif", tiff(with_tags(**tiles), pixels))
    tiles |= {"t322": 65_520, "t323": 65_520, "t259": 8}
    yield Hostile("tile-of-4-gb.tif", tiff(with_tags(**tiles), pixels))
    tiles |= {"t322": 5, "t323": 5}
    yield Hostile("tiles-too-few.tif", tiff(with_tags(**tiles), pixels))
    large = bomb(100)
    yield Hostile("strip-bomb.tif", tiff(with_tags(t259=8, t279=len(large)), large, data=bytes(78)))
    for name, packing in (("lzw", 5), ("jpeg", 7), ("deflate", 8), ("packbits", 32_773), ("zstd", 50_000)):
        yield Hostile(f"noise-as-{name}.tif", tiff(with_tags(t259=packing), bytes(range(256)) * 4))
    yield Hostile("float-predictor.tif", tiff(with_tags(t317=3), pixels))
    yield Hostile("no-palette.tif", tiff(with_tags(t262=3), pixels))
    yield Hostile("profile-of-4-gb.tif", tiff(with_tags(t34675=(7, most, 8)), pixels), harmless=True)
    yield Hostile("exif-loop.tif", tiff(with_tags(t34665=8, t34853=8), pixels), harmless=True)
    yield Hostile("directory-cut-off.tif", good[:-20])


# WebP


def _webps(good: bytes) -> Iterator[Hostile]:
    def canvas(flags: int, width: int, height: int) -> tuple[bytes, bytes]:
        return b"VP8X", bytes((flags, 0, 0, 0)) + struct.pack("<I", width - 1)[:3] + struct.pack(
            "<I", height - 1
        )[:3]

    def lossless(width: int, height: int, rest: bytes = b"\0" * 20) -> tuple[bytes, bytes]:
        return b"VP8L", b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14) + rest

    yield Hostile("expands-too-far.webp", riff(lossless(16_384, 16_384)))
    yield Hostile("few-pixels-of-many.webp", riff(lossless(4600, 4600)))
    yield Hostile("noise-without-loss.webp", riff(lossless(100, 100, bytes(range(256)) * 20)))
    yield Hostile("over-the-limit.webp", riff(canvas(0, 1 << 24, 1 << 24), (b"VP8 ", good[20:])))
    yield Hostile("another-size-inside.webp", riff(canvas(0, 100, 100), (b"VP8 ", good[20:])))
    frame = (b"ANMF", bytes(16) + good[12:])
    yield Hostile("100000-frames.webp", riff(canvas(2, 64, 48), (b"ANIM", bytes(6)), *[frame] * 1000))
    yield Hostile("frames-unannounced.webp", riff(canvas(0, 64, 48), (b"ANIM", bytes(6)), frame))
    yield Hostile(
        "noise-for-alpha.webp", riff(canvas(16, 64, 48), (b"ALPH", b"\1" + bytes(50)), (b"VP8 ", good[20:]))
    )
    yield Hostile("no-key-frame.webp", good[:20] + b"\x01" + good[21:])
    yield Hostile("chunk-of-4-gb.webp", good[:16] + b"\xff\xff\xff\xff" + good[20:])
    yield Hostile("exif-not-there.webp", riff(canvas(8, 64, 48), (b"VP8 ", good[20:])), True)
    for name, exif in exifs():
        file = riff(canvas(8, 64, 48), (b"VP8 ", good[20:]), (b"EXIF", exif))
        yield Hostile(f"exif-{name}.webp", file, harmless=True)


# BMP


def _bmps(good: bytes) -> Iterator[Hostile]:
    yield Hostile("over-the-limit.bmp", bmp(2_000_000_000, 2_000_000_000, 24, 0, bytes(100)))
    yield Hostile("expands-too-far.bmp", bmp(20_000, 20_000, 8, 1, b"\0\1"))
    yield Hostile("few-pixels-of-many.bmp", bmp(8000, 8000, 8, 1, b"\0\1"))
    jumps = b"\0\2\xff\xff" * 100_000 + b"\0\1"
    yield Hostile("run-length-jumps.bmp", bmp(4000, 4000, 8, 1, jumps), harmless=True)
    yield Hostile("run-length-short.bmp", bmp(100, 100, 8, 1, b"\xff\1" * 3))
    yield Hostile("lowest.bmp", bmp(10, -(1 << 31), 24, 0, bytes(100)))
    yield Hostile("negative-width.bmp", bmp(-10, 10, 24, 0, bytes(400)))
    yield Hostile("nothing-wide.bmp", bmp(0, 10, 24, 0, bytes(400)))
    yield Hostile("pixels-behind-the-end.bmp", bmp(10, 10, 8, 0, bytes(120), start=1 << 31))
    yield Hostile("colours-without-number.bmp", bmp(10, 10, 8, 0, bytes(120), used=0xFFFFFFFF))
    yield Hostile("depth-of-7.bmp", bmp(10, 10, 7, 0, bytes(400)))
    yield Hostile("jpeg-inside.bmp", bmp(10, 10, 24, 4, bytes(400)))
    yield Hostile("masks-of-nothing.bmp", bmp(10, 10, 32, 3, bytes(500), start=66), harmless=True)
    yield Hostile("header-of-2-gb.bmp", good[:14] + struct.pack("<I", 1 << 31) + good[18:])


# PNM


def _pnms() -> Iterator[Hostile]:
    yield Hostile("over-the-limit.pgm", b"P5 9999999999 9999999999 255 a")
    yield Hostile("expands-too-far.pgm", b"P5 20000 20000 255 " + bytes(1000))
    yield Hostile("few-pixels-of-many.pbm", b"P1 8000 8000 0 1 0 1")
    yield Hostile("few-numbers-of-many.pgm", b"P2 8000 8000 255 " + b"1 " * 1_000_000)
    yield Hostile("nothing-wide.pgm", b"P5 0 10 255 aaa")
    yield Hostile("no-largest.pgm", b"P5 10 10 0 " + bytes(100))
    yield Hostile("largest-of-70000.pgm", b"P5 10 10 70000 " + bytes(200))
    yield Hostile("over-the-largest.pgm", b"P5 10 10 100 " + b"\xff" * 100, True)
    yield Hostile("words.ppm", b"P3 2 1 255 one two three four five six")
    yield Hostile("number-of-megabytes.pgm", b"P2 2 1 255 " + b"9" * (1 << 20) + b" 1")
    yield Hostile("comment-of-megabytes.pgm", b"P5 #" + b"a" * (4 << 20) + b"\n10 10 255 " + bytes(100))
    yield Hostile("comments.pgm", b"P5\n" + b"#\n" * 1_000_000 + b"10 10 255 " + bytes(100))
    yield Hostile("spaces.pbm", b"P1 2 2 1" + b" " * (4 << 20) + b"0 1 0", harmless=True)


# AVIF


def _avifs(good: bytes) -> Iterator[Hostile]:
    meta, size, links = good.index(b"meta"), good.index(b"ispe"), good.index(b"ipma")

    def changed(at: int, data: bytes) -> bytes:
        return good[:at] + data + good[at + len(data) :]

    yield Hostile("over-the-limit.avif", changed(size + 8, struct.pack(">II", 0xFFFFFFFF, 0xFFFFFFFF)))
    yield Hostile("expands-too-far.avif", changed(size + 8, struct.pack(">II", 20_000, 20_000)))
    yield Hostile("stretched.avif", changed(size + 8, struct.pack(">II", 1500, 1500)))
    yield Hostile("nothing-wide.avif", changed(size + 8, struct.pack(">II", 0, 0)))
    yield Hostile("box-of-nothing.avif", changed(meta - 4, bytes(4)), True)
    yield Hostile("box-of-all.avif", changed(meta - 4, b"\xff\xff\xff\xff"))
    yield Hostile("box-of-64-bits.avif", changed(meta - 4, b"\0\0\0\1"))
    yield Hostile("links-without-number.avif", changed(links + 8, b"\xff\xff\xff\xff\xff\xff"))
    yield Hostile("no-properties.avif", changed(links, b"free"))
    yield Hostile("noise-for-pixels.avif", good[:-300] + bytes(range(150)) * 2, harmless=True)
    yield Hostile("sequence.avif", changed(8, b"avis"), True)
