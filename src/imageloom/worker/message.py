"""What a worker sends."""

from __future__ import annotations

from imageloom.model import Plain, Result


class Message(Plain, frozen=True):
    """One item's result on its way from a worker; without one, the word that the worker is ready."""

    delivery: int = 0
    place: int = 0
    """Of the item in what was delivered."""
    worker: str = ""
    result: Result | None = None
