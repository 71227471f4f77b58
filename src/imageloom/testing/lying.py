"""A worker that lies: a file of operators, which changes what its worker process sends about marked items.

    imageloom run 'resize 32x' photos/ out/ --operators lying.py

An item is marked by its name: of `lie,written.0.staged,dotdot.jpg` the worker says that its output is staged at
a path with dots. With `,once` at the end of the name it does so at the first attempt only. Other items' results
are left alone. IMAGELOOM_CANARY names a folder with a file `beside.jpg` that no lie may touch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

import imageloom.work
from imageloom.engines import stage
from imageloom.model import Result

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
    "times",
    "times.read",
    "times.write",
    "started",
    "pixels",
    "pieces",
    "measure",
    "lost",
    "worker",
)
"""The fields of a result, as paths."""
MESSAGE = ("message", "message.delivery", "message.place", "message.worker", "message.result")
"""Of what brings one item's result, on engines that send them one by one."""
OUTCOME = ("outcome", "outcome.task", "outcome.worker", "outcome.results")
"""Of what brings a task's results together."""

_CANARY = os.environ.get("IMAGELOOM_CANARY", "/nowhere")
_seen: dict[str, Any] = {}
"""The latest value of each field."""


def _another(value: Any, path: str) -> Any:
    """What another item, task or worker would rightly say."""
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


VALUES: dict[str, Callable[[Any, str], Any]] = {
    "another": _another,
    "replayed": lambda value, path: _seen.get(path, value),
    "dotdot": lambda value, path: "../../canary/beside.jpg",
    "absolute": lambda value, path: f"{_CANARY}/beside.jpg",
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
    "missing": lambda value, path: _MISSING,
}
_MISSING = object()


def name_of(field: str, value: str, once: bool = False) -> str:
    """The name of a file about which a worker lies so."""
    return f"lie,{field},{value}{',once' if once else ''}.jpg"


def all_lies(*fields: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each field with each value."""
    return ((field, value) for group in fields for field in group for value in VALUES)


def some_lies(*fields: Sequence[str], turn: int = 0) -> list[tuple[str, str]]:
    """A choice that has each field and each value.

    Args:
        turn: another number makes another choice.
    """
    names, values = [field for group in fields for field in group], list(VALUES)
    count = max(len(names), len(values))
    return [(names[i % len(names)], values[(i + turn) % len(values)]) for i in range(count)]


# In the worker

_encode = getattr(msgspec.msgpack.encode, "honest", msgspec.msgpack.encode)  # this file may be loaded twice


def _lying_encode(data: Any, **options: Any) -> bytes:
    """Encode, with lies in what is about marked items."""
    if not (_has_results(data) or isinstance(data, dict)):
        return _encode(data, **options)
    plain = msgspec.msgpack.decode(_encode(data))
    result = _result_in(plain)
    lie = _lie_about(result) if result else None
    if result is None or lie is None:
        _remember(plain)
        return _encode(data)
    return _tell(plain, result, *lie)


def _has_results(data: Any) -> bool:
    if isinstance(data, list):
        data = data[0] if data else None
    return type(data).__name__ in ("Message", "Outcome")


def _result_in(plain: Any) -> dict[str, Any] | None:
    """The first result that is about a marked item, or the first of all."""
    if isinstance(plain, list):
        found = [one for outcome in plain for one in outcome.get("results", ())]
    elif plain.get("results"):
        found = plain["results"]
    elif "delivery" in plain:
        found = [plain["result"]] if plain.get("result") else []
    else:
        found = [plain] if "key" in plain and ("started" in plain or "failure" in plain) else []
    return next((one for one in found if "lie," in one["key"]), None)


def _lie_about(result: dict[str, Any]) -> tuple[str, str] | None:
    _, field, value, *once = result["key"].rpartition("/")[2].removesuffix(".jpg").split(",")
    written = result.get("written") or ()
    if once and written and written[0]["staged"].split("-")[2] != "1":
        return None
    return field, value


def _tell(plain: Any, result: dict[str, Any], field: str, value: str) -> bytes:
    root, _, rest = field.partition(".")
    outcome = plain[0] if isinstance(plain, list) else plain
    if root in ("message", "outcome"):
        if not rest:  # all of it
            changed = VALUES[value](outcome, field)
            packed = b"" if changed is _MISSING else _encode(changed)
            return _encode([msgspec.Raw(packed)]) if isinstance(plain, list) and packed else packed
        _put(outcome, rest, field, value)
    else:
        _put(result, field, field, value)
    return _encode(plain)


def _put(data: dict[str, Any], path: str, field: str, value: str) -> None:
    """Put a value in the place of a field, which is made where there is none."""
    *way, last = path.split(".")
    at: Any = data
    for name in way:
        if name == "failure" and not at.get(name):
            at["written"] = []
            at[name] = {"kind": "OperatorFailed", "message": "it says so", "transient": False}
        at = at[int(name)] if name.isdigit() else at.setdefault(name, {})
    place: Any = int(last) if last.isdigit() else last
    before = at[place] if isinstance(at, list) else at.get(place)
    changed = VALUES[value](before, field)
    if changed is _MISSING:
        del at[place]
    else:
        at[place] = changed


def _remember(plain: Any) -> None:
    """Keep what honest results say, to be said again."""
    outcome = plain[0] if isinstance(plain, list) and plain else plain
    if not isinstance(outcome, dict):
        return
    for field in (*RESULT, *MESSAGE, *OUTCOME):
        root, _, rest = field.partition(".")
        at: Any = outcome
        if root not in ("message", "outcome"):
            at, rest = outcome.get("result") or (outcome.get("results") or [outcome])[0], field
        try:
            for name in filter(None, rest.split(".")):
                at = at[int(name)] if name.isdigit() else at[name]
        except (KeyError, IndexError, TypeError):
            continue
        _seen[field] = at


_lying_encode.honest = _encode  # type: ignore[attr-defined]
msgspec.msgpack.encode = _lying_encode  # type: ignore[assignment]
stage.encode = _lying_encode  # type: ignore[assignment]


def _lying_result(attempt: Any) -> Result:
    """In this process there is nothing between worker and driver: what a result may hold by its types."""
    made: Result = _honest_result(attempt)
    if "lie," not in made.key:
        return made
    plain: dict[str, Any] = msgspec.msgpack.decode(_encode(made))
    lie = _lie_about(plain)
    try:
        return msgspec.msgpack.decode(_tell(plain, plain, *lie), type=Result) if lie else made
    except Exception:
        return made


_honest_result = imageloom.work.Attempt.result.fget
if os.environ.get("IMAGELOOM_LIES") == "threads":
    imageloom.work.Attempt.result = property(_lying_result)  # type: ignore[assignment,method-assign]
