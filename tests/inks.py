"""A small profile of CMYK or RGB made of tables, as bytes."""

from __future__ import annotations

import struct
from itertools import product


def table_profile(space: bytes) -> bytes:
    """A profile whose table has two points for each channel: full ink, or light, of each to Lab, 8 bits."""
    channels = {b"CMYK": 4, b"RGB ": 3}[space]
    ramps = bytes(range(256))
    colours = bytearray()
    for corner in product((0, 1), repeat=channels):
        light = [1 - c for c in corner[:3]] if channels == 4 else list(corner)
        black = corner[3] if channels == 4 else 0
        lightness = (1 - 0.8 * black) * sum(w * v for w, v in zip((0.3, 0.55, 0.15), light, strict=True))
        colours += bytes(
            (round(255 * lightness), 128 + 60 * (light[0] - light[1]), 128 + 50 * (light[1] - light[2]))
        )
    identity = struct.pack(">9i", *(65536 * (i in (0, 4, 8)) for i in range(9)))
    table = b"mft1" + bytes(4) + bytes((channels, 3, 2, 0)) + identity
    table += ramps * channels + bytes(colours) + ramps * 3
    name = b"tables\0"
    tags = {
        b"desc": b"desc" + bytes(4) + len(name).to_bytes(4) + name + bytes(78),
        b"A2B0": table,
        b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061),
    }
    entries, body, at = b"", b"", 132 + 12 * len(tags)
    for tag, data in tags.items():
        entries += struct.pack(">4sII", tag, at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = at + len(body)
    head = struct.pack(
        ">I4sI4s4s4s12s4s24sI",
        size,
        bytes(4),
        0x02400000,
        b"prtr",
        space,
        b"Lab ",
        bytes(12),
        b"acsp",
        bytes(24),
        0,
    )
    head += struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + len(tags).to_bytes(4) + entries + body
