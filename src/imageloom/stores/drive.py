"""Google Drive: folders of files with ids, whose names need not be unique.

Folders of one name in one place are read as one folder. Of files of one name the oldest is the one that is meant,
and the others are refused by name. A new file is seen when it is whole, and has a mark of the item that it was
made from; what has its name already gets new content, in one step, or stands in the way. Drive knows no
condition for a creation: who creates a file looks afterwards whether it is the first, and else takes it back.
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
"""The property of a file that says which item it was made from."""
REMEMBERED = 20_000
"""Files that need not be looked up by name, since they were listed lately."""
_T = TypeVar("_T")


class DriveStore(RemoteStore):
    """A folder of Drive's.

    Args:
        address: `gdrive://root/Photos/2026` for My Drive, or a folder's id in place of `root`.

    Raises:
        UsageError: the address names no folder.
        MissingExtra, StorageError: as of `driveapi.Drive`.
    """

    creates = True

    def __init__(self, address: str) -> None:
        self._top, _, self._path = address.partition("://")[2].strip("/").partition("/")
        if not re.fullmatch(r"[\w-]+", self._top, re.ASCII):
            raise UsageError(
                "gdrive:// names no folder: gdrive://root/Photos, or a folder's id in place of root"
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
        """All files, folder by folder; shortcuts are not followed.

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
        """The files of a folder; the folders in it are added to `folders`."""
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
            raise StorageError(f"cannot look at {self.address}/{key}: {refusal}") from None
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
        """Copy a file as it was listed.

        Raises:
            LimitExceeded: it is larger.
            _Changed: it is another one by now.
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
        """Read a file as it was listed; if it is another one by now, as it is, unless another was planned."""
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
                raise UnreadableItem("cannot read it: it is gone")
            self._remember(key, file)
            if planned:
                planned.check(_item(key, file))
            return read(file)
        except _Changed:
            raise UnreadableItem("it has changed while it was read") from None
        except Refusal as refusal:
            raise UnreadableItem(f"cannot read it: {refusal}") from None

    # Folders

    def _ids(self, folder: str) -> tuple[str, ...]:
        """Of all folders of a path below the topmost one, the oldest first; none where there is none."""
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
        """The id of a folder, which is made where there is none. Others may make it at the same time: all
        that look afterwards take the oldest, and the other one is left, for it may be in use already."""
        with self._lock:
            if not self._ids(folder):
                above, _, name = folder.rpartition("/")
                self._drive.make_folder(name, self._make(above))
            return self._ids(folder)[0]

    def _absolute(self, key: str) -> str:
        return f"{self._path}/{key}".strip("/")

    def _files(self, key: str) -> list[File]:
        """All of that name, the oldest first."""
        folder, _, name = self._absolute(key).rpartition("/")
        ids = self._ids(folder)
        found = _sorted(self._drive.children(ids, name)) if ids else []
        return [file for file in found if not file.mime_type.startswith(NATIVE)]

    def _file(self, key: str) -> File | None:
        return next(iter(self._files(key)), None)

    def place(self, folder: str) -> str:
        """By ids from the top on: an address may begin at any folder."""
        try:
            place, path = self._above(), ""
            for name in filter(None, self._absolute(folder).split("/")):
                path = f"{path}/{name}".lstrip("/")
                place += f"/{next(iter(self._ids(path)), name)}"
        except Refusal as refusal:
            raise StorageError(f"cannot use {self.address}: {refusal}") from None
        return place

    def _above(self) -> str:
        """The place of the topmost folder, as far up as this account sees."""
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
        """Make the folder, and ask whether it can be written to."""
        try:
            may_add = self._drive.may_add(self._make(self._path))
        except Refusal as refusal:
            raise StorageError(f"cannot write to {self.address}: {refusal}") from None
        if not may_add:
            raise StorageError(f"cannot write to {self.address}: this account may only read there")
        self._staging.prepare(scratch)

    def tidy(self) -> None:
        self._staging.tidy()

    def commit(self, token: str, key: str, maker: str, replace: bool) -> None:
        data = self._staging.take(token)
        self._put(key, io.BytesIO(data), len(data), maker, replace)

    def publish(self, token: str, key: str, maker: str = "", replace: bool = True) -> None:
        """Upload what was made as a file; the rest is there already."""
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
                raise OutputExists(f"{key} is there and was not made from this item (--if-exists overwrite)")
            self._drive.replace(there, content, size, {MARK: mark})
        except ItemError:
            raise
        except Refusal as refusal:
            with self._lock:  # a folder may have gone
                self._folders = {}
            raise UnwritableOutput(f"cannot put {key}: {refusal}") from None
        finally:
            with self._lock:
                self._listed.pop(key, None)


class _Changed(Exception):
    """A file is not the one that was listed."""


def _item(key: str, file: File) -> Item:
    try:
        modified = int(datetime.fromisoformat(file.modified_time).timestamp() * 1_000_000) * 1000
    except ValueError:
        modified = 0
    return Item(key, file.size, modified, file.md5_checksum)


def _sorted(files: Iterator[File]) -> list[File]:
    return sorted(files, key=lambda file: (file.created_time, file.id))


def _told_apart(key: str, file_id: str) -> str:
    """The key of a file whose name another one has, with its id before the suffix."""
    stem, dot, suffix = key.rpartition(".")
    return f"{stem} ({file_id}){dot}{suffix}" if dot else f"{key} ({file_id})"
