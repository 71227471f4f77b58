"""Shared by remote stores: staged outputs, scratch files, and the check of keys."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from imageloom.errors import InvalidName
from imageloom.model import Failure, Item, Unlisted
from imageloom.stores.names import unsafe
from imageloom.stores.staging import ScratchFolder

if TYPE_CHECKING:
    from imageloom.stores import Feed


def checked(key: str) -> str:
    """Check a key and return it.

    Raises:
        InvalidName: it is not a valid relative path.
    """
    if reason := unsafe(key):
        raise InvalidName(f"{reason}: rename it")
    return key


def invalid(key: str, reason: str) -> Unlisted:
    """An entry for an invalid key, in printable form."""
    shown = key.encode("unicode_escape").decode() if not key.isprintable() else key
    return Unlisted(shown, Failure.of(InvalidName(f"{reason}: rename it")))


def is_hidden(key: str) -> bool:
    return key.startswith(".") or "/." in key


class Staging:
    """Staged outputs: small ones in memory, large ones as files in the run's scratch folder."""

    def __init__(self) -> None:
        self._scratch: ScratchFolder | None = None
        self._held: dict[str, bytes] = {}

    def prepare(self, scratch: str) -> None:
        self.tidy()
        self._scratch = ScratchFolder(scratch)

    def tidy(self) -> None:
        self._held.clear()
        if self._scratch:
            self._scratch.remove()
        self._scratch = None

    def path(self, token: str) -> str:
        return os.path.join(self._scratch.path if self._scratch else "", token)

    def file(self, token: str) -> str | None:
        """The path of a file that was staged under a token; None if there is none."""
        return self.path(token) if self._scratch and os.path.exists(self.path(token)) else None

    def hold(self, token: str, data: bytes) -> None:
        self._held[token] = data

    def take(self, token: str) -> bytes:
        return self._held.pop(token)

    def discard(self, token: str) -> None:
        self._held.pop(token, None)
        if self._scratch:
            with contextlib.suppress(OSError):
                os.unlink(self.path(token))


class RemoteStore(ABC):
    """Base class of remote stores: see `stores.Store`."""

    is_local = False
    address: str
    _staging: Staging

    @abstractmethod
    def find(self, key: str) -> Item | None:
        """The item with this key; None if there is none."""

    def feed(self) -> Feed | None:
        return None

    def path(self, key: str) -> str | None:
        return None

    def size(self, key: str) -> int | None:
        found = self.find(key)
        return found.size if found else None

    def exists(self, key: str) -> bool:
        return self.find(key) is not None

    def place(self, folder: str) -> str:
        return f"{self.address}/{folder}".rstrip("/")

    def link(self, key: str) -> str | None:
        return None

    def staging(self, token: str) -> str:
        return self._staging.path(token)

    def stage(self, token: str, data: bytes) -> None:
        self._staging.hold(token, data)

    def discard(self, token: str) -> None:
        self._staging.discard(token)
