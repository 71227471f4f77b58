"""An operators file that makes its process send false messages about marked items: see `lies`."""

from __future__ import annotations

import os
import struct
import time
from multiprocessing.connection import Connection
from typing import Any

import msgspec

import imageloom.worker.perform
from imageloom.engines.pipeline import stage
from imageloom.model import Result
from imageloom.testing.lies import MESSAGE, MISSING, OUTCOME, RESULT, VALUES, put, remember

_encode = getattr(msgspec.msgpack.encode, "honest", msgspec.msgpack.encode)  # this file may be loaded twice


def _lying_encode(data: Any, **options: Any) -> bytes:
    """Encode a message, with lies about marked items."""
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
    """The first result about a marked item, or else the first result."""
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
    if root == "pipe":
        return _PIPE + value.encode()
    if root in ("message", "outcome"):
        if not rest:  # all of it
            changed = VALUES[value](outcome, field)
            packed = b"" if changed is MISSING else _encode(changed)
            return _encode([msgspec.Raw(packed)]) if isinstance(plain, list) and packed else packed
        put(outcome, rest, value, field)
    else:
        put(result, field, value)
    return _encode(plain)


def _remember(plain: Any) -> None:
    """Remember the values of true results, for later lies."""
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
        remember(field, at)


_lying_encode.honest = _encode  # type: ignore[attr-defined]
msgspec.msgpack.encode = _lying_encode
stage.encode = _lying_encode


_PIPE = b"instead of a message: "
_send = getattr(Connection.send_bytes, "honest", Connection.send_bytes)


def _lying_send(pipe: Connection, data: bytes, *more: Any) -> None:
    """Send a message, or write invalid data to the pipe."""
    if bytes(data[: len(_PIPE)]) != _PIPE:
        _send(pipe, data, *more)
        return
    said = {
        "noise": os.urandom(1000),
        "torn": struct.pack("!i", 100) + b"x" * 10,
        "partial": struct.pack("!i", 100) + b"x" * 10,
        "2-31": struct.pack("!i", (1 << 31) - 1),
        "negative": struct.pack("!iQ", -1, 1 << 63),
        "flood": struct.pack("!i", 3) + b"abc",
    }
    what = bytes(data[len(_PIPE) :]).decode()
    for _ in range(10_000 if what == "flood" else 1):
        os.write(pipe.fileno(), said[what])
    if what == "partial":
        time.sleep(3600)


def _lying_result(attempt: Any) -> Result:
    """A false result for engines without messages: only lies that fit the types of a result."""
    made: Result = _honest_result(attempt)
    if "lie," not in made.key:
        return made
    plain: dict[str, Any] = msgspec.msgpack.decode(_encode(made))
    lie = _lie_about(plain)
    try:
        return msgspec.msgpack.decode(_tell(plain, plain, *lie), type=Result) if lie else made
    except Exception:
        return made


_honest_result: Any = imageloom.worker.perform.Attempt.__dict__["result"].fget
if os.environ.get("IMAGELOOM_LIES") == "threads":
    imageloom.worker.perform.Attempt.result = property(_lying_result)  # type: ignore[assignment,method-assign]
_lying_send.honest = _send  # type: ignore[attr-defined]
Connection.send_bytes = _lying_send  # type: ignore[assignment,method-assign]
