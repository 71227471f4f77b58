"""Writes image files byte by byte, for hostile files that no encoder would write."""

from __future__ import annotations

import struct
import zlib

from imageloom.codecs.chunks import chunk


def png(
    width: int, height: int, pixels: bytes, *before: bytes, bits: int = 8, kind: int = 0, interlaced: int = 0
) -> bytes:
    """A PNG whose pixels are whatever bytes are given as its compressed stream."""
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", head),
            *before,
            chunk(b"IDAT", pixels),
            chunk(b"IEND", b""),
        )
    )


def bomb(megabytes: int) -> bytes:
    """A zlib stream that decompresses to this number of megabytes of zeros."""
    stream = zlib.compressobj(9)
    block = bytes(1 << 20)
    return b"".join([*(stream.compress(block) for _ in range(megabytes)), stream.flush()])


def scans(side: int, count: int) -> bytes:
    """A gray progressive JPEG, all middle gray, in as many scans as are wanted, of a few bytes each.

    Each coefficient comes bit by bit, from bit 13 down, in runs of 16384 blocks without any: a code of one
    bit and 14 bits of length, all zeros. The side is a multiple of 1024.
    """

    def segment(marker: int, body: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body

    blocks = (side // 8) ** 2
    one_code = bytes((1, *bytes(15)))
    parts = [
        b"\xff\xd8",
        segment(0xDB, b"\0" + b"\1" * 64),
        segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0"),
        segment(0xC4, b"\0" + one_code + b"\0" + b"\x10" + one_code + b"\xe0"),
        segment(0xDA, b"\1\1\0\0\0\0") + bytes(blocks // 8),
    ]
    for scan in range(count - 1):
        coefficient, bit = 1 + scan // 14, 13 - scan % 14
        precision = (0 if bit == 13 else bit + 1) << 4 | bit
        runs = bytes(-(-15 * blocks // 16384 // 8))
        parts.append(segment(0xDA, bytes((1, 1, 0, coefficient, coefficient, precision))) + runs)
    return b"".join(parts) + b"\xff\xd9"


# GIF


def gif(*pictures: bytes, size: tuple[int, int] = (16, 16), comment: bytes = b"") -> bytes:
    """A GIF of pictures that are made by `picture`."""
    head = b"GIF89a" + struct.pack("<HHBBB", *size, 0x80, 0, 0) + bytes(3) + b"\xff\xff\xff"
    said = b"\x21\xfe" + bytes((len(comment),)) + comment + b"\0" if comment else b""
    return b"".join((head, said, *pictures, b"\x3b"))


def picture(width: int, height: int, at: int = 0, data: bytes | None = None) -> bytes:
    """Pixels of colour 0, in codes of 3 bits, each behind a clear code so that no table grows."""
    if data is None:
        bits = "".join(f"{code:03b}"[::-1] for code in [4, 0] * (width * height) + [5])
        bits += "0" * (-len(bits) % 8)
        codes = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
        data = (
            b"\2"
            + b"".join(
                bytes((len(codes[i : i + 255]),)) + codes[i : i + 255] for i in range(0, len(codes), 255)
            )
            + b"\0"
        )
    return b"\x2c" + struct.pack("<HHHHB", at, at, width, height, 0) + data


def tiff(
    tags: dict[int, tuple[int, int, int]], behind: bytes = b"", link: int = 0, data: bytes = b""
) -> bytes:
    """A TIFF of one directory at 8; each tag has a type, a count and a value or place."""
    fields = b"".join(struct.pack("<HHII", tag, *tags[tag]) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + fields + struct.pack("<I", link) + data + behind


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(n + struct.pack("<I", len(b)) + b + bytes(len(b) % 2) for n, b in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def bmp(
    width: int, height: int, bits: int, packing: int, data: bytes, used: int = 0, start: int = 1078
) -> bytes:
    """A BMP with a palette of zeros where it needs one."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, packing, len(data), 0, 0, used, 0)
    palette = bytes(4 << bits) if bits <= 8 else b""
    return struct.pack("<2sIII", b"BM", 0, 0, start) + info + palette + data
