"""Mutations of inputs: of bytes, and of messages in MessagePack."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec

from imageloom.testing.fuzzing.target import MOST_BYTES, Target
from imageloom.testing.hostile.mutations import by_chance

_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    65_536,
    1 << 31,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
    -1 << 63,
    0.5,
    1e308,
    float("nan"),
    float("-inf"),
    "",
    "..",
    "/etc",
    "a\0b",
    "\x1b[2J",
    "x" * 5000,
    b"",
    b"\xff" * 9,
    [],
    {},
    [[]] * 40,
    {"a": {"b": []}},
    msgspec.Raw(b"\xa2\xff\xfe"),
    msgspec.Raw(b"\x91" * 5000 + b"\xc0"),
    msgspec.Raw(b"\xdd\xff\xff\xff\xff"),
    msgspec.Raw(b"\xc7\x0c\xff\0\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"),
)
"""Values that are wrong or extreme for most fields."""


def mutated(target: Target, inputs: Sequence[bytes], chance: Random) -> bytes:
    """A new input for a target, made from one or two others."""
    data = chance.choice(inputs)
    if target.change is not None and chance.random() < 0.5:
        return target.change(data, chance)[:MOST_BYTES]
    kind = chance.random()
    if target.words and kind < 0.3:
        word = chance.choice(target.words)
        at = chance.randrange(len(data) + 1)
        data = data[:at] + word * chance.choice((1, 1, 1, 50)) + data[at + chance.choice((0, len(word))) :]
    elif kind < 0.45:
        other = chance.choice(inputs)
        data = data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]
    elif kind < 0.5 and data:
        start = chance.randrange(len(data))
        part = data[start : start + chance.randrange(1, 64)]
        data = data[:start] + part * chance.choice((2, 3, 1000)) + data[start:]
    if kind >= 0.5 or chance.random() < 0.3:
        data = by_chance(data or b"\0", chance)
    return (target.repair(data) if chance.random() < 0.8 else data)[:MOST_BYTES]


def changed_message(data: bytes, chance: Random) -> bytes:
    """A message with one of its values replaced or removed."""
    try:
        plain = [msgspec.msgpack.decode(data)]
        places = list(_places(plain))
        inside, key = chance.choice(places)
        if chance.random() < 0.1 and inside is not plain:
            del inside[key]
        elif chance.random() < 0.2 and isinstance(inside[key], str | list):
            inside[key] = inside[key] * chance.choice((2, 70))
        else:
            inside[key] = chance.choice((*_VALUES, *(one[at] for one, at in places)))
        return msgspec.msgpack.encode(plain[0])
    except Exception:  # an earlier change made it invalid, or too deep
        return by_chance(data or b"\0", chance)


def _places(inside: Any) -> Any:
    """All values below a list or a mapping, each as its container and its key."""
    for key in list(inside) if isinstance(inside, dict) else range(len(inside)):
        yield inside, key
        if isinstance(inside[key], list | dict):
            yield from _places(inside[key])
