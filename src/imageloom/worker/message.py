"""The message that a worker sends."""

from __future__ import annotations

from imageloom.model import Plain, Result


class Message(Plain, frozen=True):
    """The result of one item. Without a result, it means that the worker is ready."""

    delivery: int = 0
    place: int = 0
    """Position of the item in the delivery, from 0."""
    worker: str = ""
    result: Result | None = None
