"""Lies: false values for each field of a worker's messages, and the files that make workers send them.

    for field, value in all_lies(RESULT, MESSAGE):
        draw(photos / name_of(field, value))
    imageloom("run", pipeline, photos, out, "--operators", LYING)

The operators file LYING makes workers lie about items that are marked by their names. For the item
`lie,written.0.staged,dotdot.jpg`, a worker reports that the output is staged at a path with dots. With `,once`
at the end, it lies only at the first attempt. IMAGELOOM_CANARY is a folder with a file `beside.jpg` that no lie
may change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

LYING = str(Path(__file__).parent / "lying.py")
"""Path of the operators file that makes its workers lie."""

RESULT = (
    "key",
    "written",
    "written.0",
    "written.0.name",
    "written.0.staged",
    "written.0.size",
    "failure",
    "failure.kind",
    "failure.message",
    "failure.transient",
    "failure.trace",
    "times",
    "times.read",
    "times.write",
    "started",
    "pixels",
    "pieces",
    "measure",
    "lost",
    "worker",
    "dropped",
    "dropped.0",
    "warnings",
    "warnings.0",
)
"""Paths of the fields of a result."""
LISTS = ("written", "dropped", "warnings")
"""Fields of a result that are lists."""
MESSAGE = ("message", "message.delivery", "message.place", "message.worker", "message.result")
"""Paths of the fields of a message with one item's result, for engines that send results one by one."""
OUTCOME = ("outcome", "outcome.task", "outcome.worker", "outcome.results")
"""Paths of the fields of a message with all results of a task."""

_seen: dict[str, Any] = {}
"""The latest true value of each field."""


def _another(value: Any, path: str) -> Any:
    """A value that is true for another item, task or worker."""
    known = {
        "key": "honest-0.jpg",
        "written.0.name": "honest-0.jpg",
        "failure.kind": "CorruptImage",
        "worker": "another",
        "message.worker": "another",
        "outcome.worker": "another",
    }
    if path in known:
        return known[path]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value + 1
    return _seen.get(path, value)


MISSING = object()
VALUES: dict[str, Callable[[Any, str], Any]] = {
    "another": _another,
    "replayed": lambda value, path: _seen.get(path, value),
    "dotdot": lambda value, path: "../../canary/beside.jpg",
    "absolute": lambda value, path: f"{os.environ.get('IMAGELOOM_CANARY', '/nowhere')}/beside.jpg",
    "nul": lambda value, path: "a\0b",
    "control": lambda value, path: "\x1b]0;owned\x07\r\n",
    "no-utf8": lambda value, path: msgspec.Raw(b"\xa2\xff\xfe"),
    "surrogate": lambda value, path: msgspec.Raw(b"\xa3\xed\xa0\x80"),
    "nan": lambda value, path: float("nan"),
    "inf": lambda value, path: float("inf"),
    "negative": lambda value, path: -1,
    "2-63": lambda value, path: 1 << 63,
    "2-64": lambda value, path: (1 << 64) - 1,
    "type": lambda value, path: [{"a": 1}] if isinstance(value, (str, int, float)) else 7,
    "none": lambda value, path: None,
    "empty": lambda value, path: type(value)() if value is not None else "",
    "huge": lambda value, path: "x" * 1_000_000,
    "bytes": lambda value, path: b"\xff\0",
    "nested": lambda value, path: msgspec.Raw(b"\x91" * 100_000 + b"\xc0"),
    "doubled": lambda value, path: value * 2 if isinstance(value, (list, str)) else [value, value],
    "missing": lambda value, path: MISSING,
}
"""The lies by name: functions of the true value and the path of its field."""
PIPE = ("noise", "torn", "partial", "2-31", "negative", "flood")
"""Names of the invalid data that a worker may write to its pipe instead of a message."""


def name_of(field: str, value: str, once: bool = False) -> str:
    """The name of a file that makes a worker tell this lie."""
    return f"lie,{field},{value}{',once' if once else ''}.jpg"


def all_lies(*fields: Sequence[str]) -> list[tuple[str, str]]:
    """All combinations of field and lie."""
    return [(field, value) for group in fields for field in group for value in VALUES]


def some_lies(*fields: Sequence[str], turn: int = 0) -> list[tuple[str, str]]:
    """Some combinations, in which each field and each lie occurs.

    Args:
        turn: each number gives another selection.
    """
    names, values = [field for group in fields for field in group], list(VALUES)
    count = max(len(names), len(values))
    return [(names[i % len(names)], values[(i + turn) % len(values)]) for i in range(count)]


def put(data: dict[str, Any], path: str, value: str, field: str = "") -> None:
    """Replace a field by a lie. A missing field is created.

    Args:
        path: path of the field in the data.
        field: name of the field, if it differs from the path.
    """
    *way, last = path.split(".")
    at: Any = data
    for name in way:
        if name == "failure" and not at.get(name):
            at["written"] = []
            at[name] = {"kind": "OperatorFailed", "message": "it says so", "transient": False}
        if name.isdigit():
            at += [] if at else [{"name": "honest-0.jpg", "staged": "1-1-1-0123456789ab-0", "size": 1}]
            at = at[int(name)]
        else:
            at = at.setdefault(name, [] if name in LISTS else {})
    place: Any = int(last) if last.isdigit() else last
    before = at.get(place) if isinstance(at, dict) else at[place] if at else {}
    changed = VALUES[value](before, field or path)
    if isinstance(at, list):
        at[:] = [] if changed is MISSING else [changed]
    elif changed is MISSING:
        at.pop(place, None)
    else:
        at[place] = changed


def remember(field: str, value: Any) -> None:
    """Remember a true value, for later lies."""
    _seen[field] = value


def lies_about(honest: Any) -> Iterator[tuple[str, bytes]]:
    """Yield the name of each lie, and the message in which one field is replaced by it."""
    packed = msgspec.msgpack.encode(honest)
    for field in msgspec.msgpack.decode(packed):
        for value in VALUES:
            plain = msgspec.msgpack.decode(packed)
            put(plain, field, value)
            yield f"{field},{value}", msgspec.msgpack.encode(plain)
