"""EXIF, IPTC and XMP as hexadecimal digits in texts of a PNG, as ImageMagick, exiv2 and exiftool write them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

KEYWORD = "Raw profile type "
_HEAD = re.compile(r"\s*(\S+)\s+(\d{1,9})\s+")
_LINE = 72
_IPTC = 0x0404
"""The number of the Photoshop resource that holds IPTC."""


def parsed(text: str) -> bytes:
    """The bytes of a profile: its name, its length and its digits; empty if the text is damaged."""
    head = _HEAD.match(text)
    if head is None:
        return b""
    with suppress(ValueError):
        profile = bytes.fromhex(text[head.end() :])
        if len(profile) == int(head[2]):
            return profile
    return b""


def of(kind: str, profile: bytes) -> str:
    """A profile as text."""
    digits = profile.hex()
    lines = (digits[at : at + _LINE] for at in range(0, len(digits), _LINE))
    return f"\n{kind}\n{len(profile):8}\n" + "\n".join(lines) + "\n"


def iptc_of(profile: bytes) -> tuple[bytes, bool]:
    """The IPTC records of a Photoshop block, and whether the block has anything else."""
    if not profile.startswith((b"8BIM", b"Photoshop 3.0\0")):
        return profile, False
    found, others = b"", False
    for number, body in _resources(profile.removeprefix(b"Photoshop 3.0\0")):
        if number == _IPTC and not found:
            found = body
        else:
            others = True
    return found, others


def photoshop_of(iptc: bytes) -> bytes:
    """A Photoshop block with these IPTC records."""
    return b"8BIM" + _IPTC.to_bytes(2) + bytes(2) + len(iptc).to_bytes(4) + iptc + bytes(len(iptc) % 2)


def _resources(blocks: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and body of each resource (Adobe Photoshop File Formats Specification, Image Resource Blocks)."""
    at = 0
    while blocks[at : at + 4] == b"8BIM" and at + 12 <= len(blocks):
        body = at + 7 + blocks[at + 6] + (1 - blocks[at + 6] % 2) + 4
        end = body + int.from_bytes(blocks[body - 4 : body])
        yield int.from_bytes(blocks[at + 4 : at + 6]), blocks[body:end]
        at = end + end % 2
