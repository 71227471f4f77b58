"""The image resources of Photoshop, in which JPEG and TIFF files hold IPTC records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

PREFIX = b"Photoshop 3.0\0"
"""The first bytes of the segments that hold resources."""
_SIGNATURE = b"8BIM"
_RESOLUTION, _IPTC, _DIGEST = 0x03ED, 0x0404, 0x0425
_THUMBNAILS = {0x0409, 0x040C}
_LASTING = {0x040A, 0x040B, _DIGEST}
"""The copyright flag, the address of the author's page, and the digest of the IPTC records. They do not depend on
the pixels."""


class Resources(NamedTuple):
    iptc: bytes = b""
    lasting: bytes = b""
    """Resources that remain true, as they are in the file."""
    density: tuple[float, float] | None = None
    """Pixels per inch."""
    has_thumbnail: bool = False
    has_others: bool = False
    """There is something else, such as settings of Photoshop or a second set of IPTC records."""


def read(block: bytes) -> Resources:
    """The resources of a block, up to the first damaged one."""
    iptc, lasting, density, others, thumbnail, end = b"", b"", None, False, False, 0
    for kind, start, body in _resources(block):
        end = start + _size(block, start, body)
        if kind == _IPTC:
            others = others or bool(iptc and body != iptc)
            iptc = iptc or body
        elif kind in _LASTING:
            lasting += block[start:end]
        elif kind in _THUMBNAILS:
            thumbnail = True
        elif kind == _RESOLUTION and len(body) >= 12:
            density = int.from_bytes(body[:4]) / 65_536, int.from_bytes(body[8:12]) / 65_536
        else:
            others = True
    others = others or bool(block[end:].strip(b"\0"))
    return Resources(iptc, lasting, density, thumbnail, others)


def chosen(first: bytes, second: bytes) -> tuple[bytes, bool]:
    """One of two sets of IPTC records: the first one, unless only the second one is whole. And whether the other
    one has something that this one lacks."""
    taken, other = (second, first) if not _is_whole(first) and _is_whole(second) else (first, second)
    return taken or other, bool(taken) and not taken.startswith(other.rstrip(b"\0"))


def _is_whole(records: bytes) -> bool:
    """Whether the IPTC records end where the last one does (IPTC-IIM 4.2, 1.5)."""
    at = 0
    while records[at : at + 1] == b"\x1c" and at + 5 <= len(records):
        size = int.from_bytes(records[at + 3 : at + 5])
        if size & 0x8000:
            return False
        at += 5 + size
    return 0 < at <= len(records) and not records[at:].strip(b"\0")


def _resources(block: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Number, position and body of each resource."""
    at = 0
    while block[at : at + 4] == _SIGNATURE and at + 8 <= len(block):
        name = block[at + 6] + 1
        field = at + 6 + name + name % 2
        size = int.from_bytes(block[field : field + 4])
        end = field + 4 + size
        if end > len(block):
            return
        yield int.from_bytes(block[at + 4 : at + 6]), at, block[field + 4 : end]
        at = end + size % 2


def _size(block: bytes, at: int, body: bytes) -> int:
    name = block[at + 6] + 1
    return 6 + name + name % 2 + 4 + len(body) + len(body) % 2


def written(iptc: bytes, lasting: bytes) -> bytes:
    """The block that holds IPTC records and other resources."""
    if not iptc:
        return lasting
    head = _SIGNATURE + _IPTC.to_bytes(2) + b"\0\0" + len(iptc).to_bytes(4)
    return head + iptc + bytes(len(iptc) % 2) + lasting
