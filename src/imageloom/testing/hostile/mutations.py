"""Mutations of valid files: of their structures, and at random."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from random import Random

from imageloom import codecs
from imageloom.model import Format
from imageloom.testing.hostile.anatomy import Field, anatomy
from imageloom.testing.hostile.bases import bases
from imageloom.testing.hostile.file import Hostile

Change = tuple[str, Callable[[bytes], bytes]]
"""The description of a change, and the function that makes it."""

_BY_CHANCE = 3
"""One of this number of files is changed at random."""


def files(seed: int) -> Iterator[Hostile]:
    """Yield mutated files without end, alternating between the base files, in random order per base file."""
    turns = [(*base, iter(_shuffled(base[1], base[2], Random(f"{seed} {base[0]}")))) for base in bases()]
    chance = Random(seed)
    for number in count():
        name, format, data, changes = turns[number % len(turns)]
        change = None if number // len(turns) % _BY_CHANCE == 0 else next(changes, None)
        what, changed = (change[0], change[1](data)) if change else ("by-chance", by_chance(data, chance))
        if format == "png" and chance.random() < 0.8:
            changed = with_checksums(changed)
        yield Hostile(f"{number:06}-{name}-{what}.{codecs.suffixes(format)[0]}", changed, None)


def _shuffled(format: Format, data: bytes, chance: Random) -> list[Change]:
    changes = list(_changes(format, data))
    chance.shuffle(changes)
    return changes


def _changes(format: Format, data: bytes) -> Iterator[Change]:
    """All changes of a file's structures."""
    fields, parts = anatomy(data, format)
    for field in fields:
        for value in _values(field, data):
            yield f"{value:x}-at-{field.at}", partial(_put, field, value)
    for edge in sorted({edge + by for part in parts for edge in part for by in (-1, 0, 1)}):
        yield f"cut-at-{edge}", partial(_cut, edge)
    for index, (start, end) in enumerate(parts):
        part = data[start:end]
        yield f"without-{index}", partial(_spliced, start, end, b"")
        yield f"twice-{index}", partial(_spliced, end, end, part)
        yield (
            f"often-{index}",
            partial(_spliced, end, end, part * min(1000, 1 + 300_000 // max(1, len(part)))),
        )
        yield f"first-{index}", partial(_spliced, parts[0][0], parts[0][0], part)
        yield f"last-{index}", partial(_spliced, len(data), len(data), part)
        if index:
            before = slice(*parts[index - 1])
            if before.stop <= start:
                yield f"swapped-{index}", partial(_spliced, before.start, end, part + data[before])
        yield f"empty-{index}", partial(_spliced, start + min(8, end - start), end, b"")
        yield (
            f"zeros-{index}",
            partial(_spliced, start + min(8, end - start), end, bytes(max(0, end - start - 8))),
        )


def _values(field: Field, data: bytes) -> list[int]:
    """Extreme values for a field, except its current value."""
    bits, value = 8 * field.length, int.from_bytes(data[field.at : field.at + field.length], field.order)
    top = (1 << bits) - 1
    edges = {0, 1, 2, 16, 255, top, top - 1, top >> 1, (top >> 1) + 1, top >> 1 << 1}
    near = {value + 1, value - 1, 2 * value, value // 2, value ^ 0x80}
    return sorted({v for v in edges | near if 0 <= v <= top} - {value})


def _put(field: Field, value: int, data: bytes) -> bytes:
    return data[: field.at] + value.to_bytes(field.length, field.order) + data[field.at + field.length :]


def _cut(at: int, data: bytes) -> bytes:
    return data[: max(0, at)]


def _spliced(start: int, end: int, new: bytes, data: bytes) -> bytes:
    return data[:start] + new + data[end:]


def by_chance(data: bytes, chance: Random) -> bytes:
    """Change, remove or insert some bytes at random, more often near the beginning."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(min(len(changed), 600) if chance.random() < 0.7 else len(changed))
        kind = chance.randrange(6)
        if kind < 2:
            changed[at] = chance.randrange(256)
        elif kind == 2:
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 3:
            changed[at : at + 4] = chance.choice(
                (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80")
            )
        elif kind == 4 and len(changed) > 64:
            del changed[at : at + chance.randrange(1, 9)]
        else:
            changed[at:at] = chance.randbytes(chance.randrange(1, 9))
    return bytes(changed)


def with_checksums(data: bytes) -> bytes:
    """Correct the checksums of a PNG's chunks, up to the first invalid chunk."""
    changed, at = bytearray(data), 8
    while at + 12 <= len(changed):
        end = at + 8 + int.from_bytes(changed[at : at + 4])
        if end + 4 > len(changed):
            break
        changed[end : end + 4] = zlib.crc32(changed[at + 4 : end]).to_bytes(4)
        at = end + 4
    return bytes(changed)
