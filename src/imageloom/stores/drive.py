"""Google Drive: files and folders have IDs; names need not be unique.

Folders with the same name in the same place are treated as one folder. Of files with the same name, the oldest
is used; the others are failed items. A new file becomes visible when it is complete, and has a property that
identifies the item that it was made from. A file that already has the name gets the new content in one step, or
the output fails. Drive cannot create a file only if its name is free: after creating a file, imageloom checks
whether it is the oldest with this name, and deletes it otherwise.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TypeVar

from imageloom.errors import (
    DiskFull,
    InvalidName,
    ItemError,
    LimitExceeded,
    OutputExists,
    StorageError,
    UnreadableItem,
    UnwritableOutput,
    UsageError,
)
from imageloom.model import Failure, Item, Unlisted
from imageloom.stores.driveapi import FOLDER, NATIVE, Drive, File, Refusal
from imageloom.stores.drivefeed import DriveFeed
from imageloom.stores.names import unsafe
from imageloom.stores.remote import RemoteStore, Staging, checked, invalid, is_hidden
from imageloom.system import folders

MARK = "imageloom"
_FULL = ("storageQuotaExceeded", "teamDriveFileLimitExceeded")
"""Drive's reasons if there is no space."""
"""The file property that identifies the item that a file was made from."""
REMEMBERED = 20_000
"""Maximum number of listed files that are cached, so that they need not be looked up by name."""
_T = TypeVar("_T")


class DriveStore(RemoteStore):
    """A folder on Google Drive.

    Args:
        address: `gdrive://root/Photos/2026` for My Drive, or a folder's ID instead of `root`.

    Raises:
        UsageError: the address has no folder.
        MissingExtra, StorageError: see `driveapi.Drive`.
    """

    creates = True

    def __init__(self, address: str) -> None:
        self._top, _, self._path = address.partition("://")[2].strip("/").partition("/")
        if not re.fullmatch(r"[\w-]+", self._top, re.ASCII):
            raise UsageError(
                "gdrive:// needs a folder: gdrive://root/Photos, or a folder's ID instead of root"
            )
        try:
            checked(self._path or "-")
        except InvalidName as error:
            raise UsageError(f"{address}: {error}") from None
        self.address = f"gdrive://{self._top}/{self._path}".rstrip("/")
        self._drive = Drive()
        self._staging = Staging()
        self._lock = threading.RLock()
        self._folders: dict[str, tuple[str, ...]] = {}
        self._listed: dict[str, File] = {}
        self._feed: DriveFeed | None = None
        self._lineage = ""

    # Reading

    def items(self) -> Iterator[Item | Unlisted]:
        """Yield all files, folder by folder. Shortcuts are not followed.

        Raises:
            StorageError: a folder cannot be listed.
        """
        try:
            with self._lock:
                self._folders = {}
            ids = self._ids(self._path)
            if not ids:
                raise StorageError(f"there is no folder {self.address}")
            waiting = [("", ids)]
            while waiting:
                prefix, ids = waiting.pop()
                folders: dict[str, tuple[str, ...]] = {}
                yield from self._list(prefix, ids, folders)
                waiting += [(f"{prefix}{name}/", ids) for name, ids in folders.items()]
        except Refusal as refusal:
            raise StorageError(f"cannot list {self.address}: {refusal}") from None

    def _list(
        self, prefix: str, ids: tuple[str, ...], folders: dict[str, tuple[str, ...]]
    ) -> Iterator[Item | Unlisted]:
        """Yield the files of a folder. Its subfolders are added to `folders`."""
        names: set[str] = set()
        if self._feed:
            self._feed.note_folder(ids, prefix)
        for file in self._drive.children(ids):
            reason = unsafe(file.name) or ("its name has a slash" if "/" in file.name else None)
            if is_hidden(file.name) and not reason:
                continue
            key = prefix + file.name.replace("/", "%2F")
            if reason:
                yield invalid(key, reason)
            elif file.mime_type == FOLDER:
                folders[file.name] = (*folders.get(file.name, ()), file.id)
            elif file.name in names:
                yield invalid(_told_apart(key, file.id), "an older file in its folder has its name")
            elif file.mime_type.startswith(NATIVE):
                kind = file.mime_type.removeprefix(NATIVE)
                yield Unlisted(key, Failure.of(UnreadableItem(f"it is no file but a {kind} of Google's")))
            else:
                names.add(file.name)
                self._remember(key, file)
                yield _item(key, file)

    def _remember(self, key: str, file: File) -> None:
        with self._lock:
            self._listed.pop(key, None)
            self._listed[key] = file
            while len(self._listed) > REMEMBERED:
                del self._listed[next(iter(self._listed))]
        if self._feed:
            self._feed.note_file(file.id, key)

    def feed(self) -> DriveFeed:
        try:
            self._ids("")
            self._feed = DriveFeed(self._drive)
        except Refusal as refusal:
            raise StorageError(f"cannot watch {self.address}: {refusal}") from None
        return self._feed

    def find(self, key: str) -> Item | None:
        try:
            file = self._file(checked(key))
        except Refusal as refusal:
            raise StorageError(f"cannot read the metadata of {self.address}/{key}: {refusal}") from None
        if file is None:
            return None
        self._remember(key, file)
        return _item(key, file)

    def read(self, key: str, limit: int, planned: Item | None = None) -> bytes:
        def read(file: File) -> bytes:
            held = io.BytesIO()
            self._copy(file, held, limit)
            return held.getvalue()

        return self._reading(key, read, planned)

    def head(self, key: str, length: int, start: int = 0) -> bytes:
        def read(file: File) -> bytes:
            held = io.BytesIO()
            if wanted := max(0, min(length, file.size - start)):
                self._drive.download(file, held.write, start, wanted)
            return held.getvalue()

        return self._reading(key, read)

    def fetch(self, key: str, path: str, limit: int, planned: Item | None = None) -> None:
        def fetch(file: File) -> None:
            with folders.create(path) as copy:
                self._copy(file, copy, limit)

        self._reading(key, fetch, planned)

    def _copy(self, file: File, to: io.BufferedIOBase, limit: int) -> None:
        """Copy the listed version of a file.

        Raises:
            LimitExceeded: the file is larger than the limit.
            _Changed: the file has changed since.
        """
        if file.size > limit:
            raise LimitExceeded(
                f"the file is {file.size:,} bytes, over the limit of {limit:,} (--max-file-size)"
            )
        digest = hashlib.md5(usedforsecurity=False)

        def write(chunk: bytes) -> None:
            to.write(chunk)
            digest.update(chunk)

        if file.size:
            self._drive.download(file, write, 0, file.size)
        if file.md5_checksum and digest.hexdigest() != file.md5_checksum:
            raise _Changed

    def _reading(self, key: str, read: Callable[[File], _T], planned: Item | None = None) -> _T:
        """Read the listed version of a file. If it has changed, read the new one, unless `planned` forbids it."""
        listed = self._listed.get(checked(key))
        if planned and listed and _item(key, listed) != planned:
            listed = None
        try:
            if listed:
                try:
                    return read(listed)
                except _Changed:
                    pass
                except Refusal as refusal:
                    if refusal.status not in (404, 416):
                        raise
            file = self._file(key)
            if file is None:
                raise UnreadableItem("cannot read it: the file no longer exists")
            self._remember(key, file)
            if planned:
                planned.check(_item(key, file))
            return read(file)
        except _Changed:
            raise UnreadableItem("the file was changed while it was read") from None
        except Refusal as refusal:
            raise UnreadableItem(f"cannot read it: {refusal}") from None

    # Folders

    def _ids(self, folder: str) -> tuple[str, ...]:
        """IDs of all folders with this path below the top folder, the oldest first; empty if there are none."""
        with self._lock:
            found = self._folders.get(folder)
        if found is None and not folder:
            found = (self._drive.open(self._top).id,)
        elif found is None:
            above, _, name = folder.rpartition("/")
            ids = self._ids(above)
            found = (
                tuple(f.id for f in _sorted(self._drive.children(ids, name)) if f.mime_type == FOLDER)
                if ids
                else ()
            )
        if found:
            with self._lock:
                self._folders[folder] = found
        return found

    def _make(self, folder: str) -> str:
        """The ID of a folder, which is created if it does not exist. If other processes create it at the same
        time, all use the oldest. The newer folder is not deleted, because it may already be in use."""
        with self._lock:
            if not self._ids(folder):
                above, _, name = folder.rpartition("/")
                self._drive.make_folder(name, self._make(above))
            return self._ids(folder)[0]

    def _absolute(self, key: str) -> str:
        return f"{self._path}/{key}".strip("/")

    def _files(self, key: str) -> list[File]:
        """All files with this key, the oldest first."""
        folder, _, name = self._absolute(key).rpartition("/")
        ids = self._ids(folder)
        found = _sorted(self._drive.children(ids, name)) if ids else []
        return [file for file in found if not file.mime_type.startswith(NATIVE)]

    def _file(self, key: str) -> File | None:
        return next(iter(self._files(key)), None)

    def place(self, folder: str) -> str:
        """The path as folder IDs from the top, because an address may start at any folder."""
        try:
            place, path = self._above(), ""
            for name in filter(None, self._absolute(folder).split("/")):
                path = f"{path}/{name}".lstrip("/")
                place += f"/{next(iter(self._ids(path)), name)}"
        except Refusal as refusal:
            raise StorageError(f"cannot use {self.address}: {refusal}") from None
        return place

    def _above(self) -> str:
        """The place of the top folder, as far up as this account has access."""
        if not self._lineage:
            lineage = [self._drive.get(self._top)]
            while lineage[0].parents:
                try:
                    lineage.insert(0, self._drive.get(lineage[0].parents[0]))
                except Refusal as refusal:
                    if refusal.status != 404:
                        raise
                    break
            self._lineage = "gdrive://" + "/".join(file.id for file in lineage)
        return self._lineage

    # Writing

    def prepare(self, scratch: str = "") -> None:
        """Create the folder, and check whether it can be written to."""
        try:
            may_add = self._drive.may_add(self._make(self._path))
        except Refusal as refusal:
            raise StorageError(f"cannot write to {self.address}: {refusal}") from None
        if not may_add:
            raise StorageError(f"cannot write to {self.address}: this account has only read access")
        self._staging.prepare(scratch)

    def tidy(self) -> None:
        self._staging.tidy()

    def commit(self, token: str, key: str, maker: str, replace: bool) -> None:
        data = self._staging.take(token)
        self._put(key, io.BytesIO(data), len(data), maker, replace)

    def publish(self, token: str, key: str, maker: str = "", replace: bool = True) -> None:
        """Upload an output that was made as a file; others were uploaded by `commit`."""
        path = self._staging.file(token)
        if path is None:
            return
        with open(path, "rb") as file:
            self._put(key, file, os.path.getsize(path), maker, replace)
        self._staging.discard(token)

    def _put(self, key: str, content: io.BufferedIOBase, size: int, maker: str, replace: bool) -> None:
        mark = hashlib.sha256(maker.encode()).hexdigest()[:32]
        folder, _, name = self._absolute(checked(key)).rpartition("/")
        try:
            there = self._file(key)
            if there is None:
                made = self._drive.create(name, self._make(folder), content, size, {MARK: mark})
                there = self._file(key)
                if there is None or there.id == made:
                    return
                self._drive.delete(made)
            if not replace and there.properties.get(MARK) != mark:
                content.seek(0)
                if there.md5_checksum == hashlib.file_digest(content, "md5").hexdigest():
                    return
                raise OutputExists(
                    f"its output {key} exists and was not made from this item (--if-exists overwrite)"
                )
            self._drive.replace(there, content, size, {MARK: mark})
        except ItemError:
            raise
        except Refusal as refusal:
            with self._lock:  # a folder may have been deleted
                self._folders = {}
            kind = DiskFull if refusal.reason in _FULL else UnwritableOutput
            raise kind(f"cannot put {key}: {refusal}") from None
        finally:
            with self._lock:
                self._listed.pop(key, None)


class _Changed(Exception):
    """A file has changed since it was listed."""


def _item(key: str, file: File) -> Item:
    try:
        modified = int(datetime.fromisoformat(file.modified_time).timestamp() * 1_000_000) * 1000
    except ValueError:
        modified = 0
    return Item(key, file.size, modified, file.md5_checksum)


def _sorted(files: Iterator[File]) -> list[File]:
    return sorted(files, key=lambda file: (file.created_time, file.id))


def _told_apart(key: str, file_id: str) -> str:
    """A unique key for a file whose name another file has too: with the ID before the suffix."""
    stem, dot, suffix = key.rpartition(".")
    return f"{stem} ({file_id}){dot}{suffix}" if dot else f"{key} ({file_id})"
