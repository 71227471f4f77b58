"""The profile of the file that a thread processes: a step that converts from it has only its digest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_bound: ContextVar[bytes] = ContextVar("profile", default=b"")


@contextmanager
def bound(icc: bytes) -> Iterator[None]:
    """Use this profile in this thread."""
    token = _bound.set(icc)
    try:
        yield
    finally:
        _bound.reset(token)


def bound_profile() -> bytes:
    return _bound.get()
