"""What stores that are not local have in common: staged outputs, scratch, and safe keys."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from imageloom.errors import InvalidName, StorageError
from imageloom.model import Failure, Item, Unlisted

if TYPE_CHECKING:
    from imageloom.stores import Feed

TOKENS = ".imageloom"
"""The folder of a sink that holds what is no output."""
_NO_PART = re.compile(r"(?:\A|/)\.{0,2}(?:/|\Z)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def unsafe(key: str) -> str | None:
    """Why a key cannot be a relative path below a folder, in words; None where it can."""
    if _NO_PART.search(key):
        return "its name has an empty part, '.' or '..', which no folder can hold"
    if _CONTROL.search(key):
        return "its name has control characters"
    return None


def checked(key: str) -> str:
    """The key.

    Raises:
        InvalidName: it is not a safe one.
    """
    if reason := unsafe(key):
        raise InvalidName(f"{reason}: rename it")
    return key


def invalid(key: str, reason: str) -> Unlisted:
    """A key that is refused, as it can be shown."""
    shown = key.encode("unicode_escape").decode() if not key.isprintable() else key
    return Unlisted(shown, Failure.of(InvalidName(f"{reason}: rename it")))


def is_hidden(key: str) -> bool:
    return key.startswith(".") or "/." in key


def scratch_folder(address: str, scratch: str) -> str:
    """The path of the folder for large outputs of a store, below a folder of scratch or the system's."""
    name = f"imageloom-{hashlib.sha256(address.encode()).hexdigest()[:16]}-{os.getuid()}"
    return os.path.join(os.path.abspath(scratch or tempfile.gettempdir()), name)


class Staging:
    """Outputs on their way: small ones in memory, large ones as files in a folder of scratch.

    Args:
        address: of the store: the folder is the same for all runs into it, so that a later one sweeps up.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._folder = ""
        self._held: dict[str, bytes] = {}

    def prepare(self, scratch: str) -> None:
        folder = scratch_folder(self._address, scratch)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            found = os.lstat(folder)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise StorageError(f"{folder} is not a folder of this user's (--scratch)")
            for name in os.listdir(folder):
                os.unlink(os.path.join(folder, name))
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(f"cannot use {folder} for scratch (--scratch): {error.strerror}") from None
        self._folder = folder

    def tidy(self) -> None:
        self._held.clear()
        with contextlib.suppress(OSError):
            for name in os.listdir(self._folder):
                os.unlink(os.path.join(self._folder, name))
            os.rmdir(self._folder)

    def path(self, token: str) -> str:
        return os.path.join(self._folder, token)

    def file(self, token: str) -> str | None:
        """The path of a file that was made under a token."""
        return self.path(token) if self._folder and os.path.exists(self.path(token)) else None

    def hold(self, token: str, data: bytes) -> None:
        self._held[token] = data

    def take(self, token: str) -> bytes:
        return self._held.pop(token)

    def discard(self, token: str) -> None:
        self._held.pop(token, None)
        if self._folder:
            with contextlib.suppress(OSError):
                os.unlink(self.path(token))


class RemoteStore(ABC):
    """What is the same of every store whose files have no paths: see `stores.Store`."""

    is_local = False
    address: str
    _staging: Staging

    @abstractmethod
    def find(self, key: str) -> Item | None:
        """The item of that key; None where there is none."""

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
