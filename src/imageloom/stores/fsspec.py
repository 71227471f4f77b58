"""All other schemes, through fsspec: for example SFTP, and zip and tar files (read only).

An output is uploaded under a hidden name and then renamed, so that incomplete files are never visible. All threads
share a few connections, and each connection is used by one thread at a time: most fsspec file systems require it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from queue import LifoQueue
from typing import TYPE_CHECKING, Any

from imageloom.errors import (
    DiskFull,
    ImageloomError,
    ItemError,
    LimitExceeded,
    MissingExtra,
    OutputExists,
    StorageError,
    UnreadableItem,
    UnwritableOutput,
    UsageError,
)
from imageloom.model import Item, Unlisted
from imageloom.stores.names import PROBE, STAGING, is_token, unsafe
from imageloom.stores.remote import RemoteStore, Staging, checked, invalid, is_hidden
from imageloom.system import folders

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

log = logging.getLogger(__name__)

ARCHIVES = ("zip", "tar")
READ_ONLY = {
    "zip": "zip files can only be read",
    "tar": "tar files can only be read",
    "http": "web servers can only be read",
    "https": "web servers can only be read",
}
EXTRAS = {"sftp": "sftp", "ssh": "sftp"}
CONNECTIONS = 8
"""Maximum number of connections per process to one store: servers refuse more."""
PART = 8 << 20
_TIMES = ("mtime", "modified", "LastModified", "last_modified", "created")
_VERSIONS = ("ETag", "etag", "md5Checksum", "CRC")


class FsspecStore(RemoteStore):
    """A folder in an fsspec file system. Settings and credentials come from fsspec's configuration
    (`~/.config/fsspec`, `FSSPEC_SFTP_PASSWORD`) and from that of the protocol.

    Raises:
        UsageError: the scheme is unknown.
        MissingExtra: fsspec, or its package for the scheme, is not installed.
        StorageError: the connection failed.
    """

    creates = False

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._scheme = address.partition("://")[0]
        self._idle: LifoQueue[AbstractFileSystem | None] = LifoQueue()
        first, self._root = _connect(self.address)
        for _ in range(CONNECTIONS - 1):
            self._idle.put(None)
        self._idle.put(first)
        self._staging = Staging()
        self.own = ""
        self._folders: set[str] = set()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[AbstractFileSystem]:
        connection = self._idle.get()
        try:
            if connection is None:
                connection = _connect(self.address)[0]
            yield connection
        finally:
            self._idle.put(connection)

    # Reading

    def items(self) -> Iterator[Item | Unlisted]:
        """Yield all files, folder by folder, without hidden files.

        Raises:
            StorageError: a folder cannot be listed.
        """
        folders = [self._root]
        while folders:
            folder = folders.pop()
            for info in self._listed(folder):
                key = self._relative(info["name"])
                if is_hidden(key) and not unsafe(key):
                    continue
                if reason := unsafe(key):
                    yield invalid(key, reason)
                elif info["type"] == "directory":
                    folders.append(info["name"])
                elif info["type"] == "file":
                    yield _item(key, info)

    def _listed(self, folder: str) -> list[dict[str, Any]]:
        try:
            with self._connection() as fs:
                if self._scheme in ARCHIVES:
                    return list(fs.find(folder, detail=True).values())
                found: list[dict[str, Any]] = fs.ls(folder, detail=True)
                return found
        except Exception as error:
            raise StorageError(f"cannot list {self.address}: {explain(error)}") from None

    def _relative(self, name: str) -> str:
        return name.removeprefix(self._root).lstrip("/") if self._root else name

    def find(self, key: str) -> Item | None:
        try:
            with self._connection() as fs:
                return _item(key, fs.info(self._path(key)))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise StorageError(
                f"cannot read the metadata of {self.address}/{key}: {explain(error)}"
            ) from None

    def read(self, key: str, limit: int, planned: Item | None = None) -> bytes:
        with self._reading() as fs:
            size = self._size(fs, key, limit, planned)
            data = bytes(fs.cat_file(self._path(key)))
            if size is not None and len(data) != size:
                raise UnreadableItem(f"the download was incomplete: {len(data):,} of {size:,} bytes")
            return data

    def head(self, key: str, length: int, start: int = 0) -> bytes:
        with self._reading() as fs, fs.open(self._path(key), "rb", block_size=length) as file:
            file.seek(start)
            return bytes(file.read(length))

    def _size(self, fs: AbstractFileSystem, key: str, limit: int, planned: Item | None) -> int | None:
        """The size of a file, after checking that it is the planned version; None if unknown."""
        info = fs.info(self._path(key))
        if planned:
            planned.check(_item(key, info))
        return _check_size(info["size"], limit)

    def fetch(self, key: str, path: str, limit: int, planned: Item | None = None) -> None:
        with self._reading() as fs, folders.create(path) as file:
            size = self._size(fs, key, limit, planned)
            with fs.open(self._path(key), "rb", block_size=PART) as source:
                while chunk := source.read(PART):
                    file.write(chunk)
            if size is not None and file.tell() != size:
                raise UnreadableItem(f"the download was incomplete: {file.tell():,} of {size:,} bytes")

    # Writing

    def prepare(self, scratch: str = "") -> None:
        """Check that the folder can be written to, and remove staged files of killed runs."""
        if self._scheme in READ_ONLY:
            raise UsageError(f"{self.address}: {READ_ONLY[self._scheme]}: write into a folder or a bucket")
        hidden = self._path(STAGING)
        try:
            with self._connection() as fs:
                if _is_link(fs, hidden):
                    raise StorageError(
                        f"{STAGING} is a symbolic link, which imageloom does not follow: remove it"
                    )
                fs.makedirs(hidden, exist_ok=True)
                probe = f"{hidden}/{self.own}{PROBE}"
                fs.pipe_file(probe, b"")
                is_ours = fs.info(probe).get("uid") == fs.info(hidden).get("uid")
                fs.rm_file(probe)
                if not is_ours:
                    raise StorageError(f"{STAGING} belongs to another user: remove it")
                for path in _tokens(fs, hidden, self.own):
                    fs.rm_file(path)
        except Exception as error:
            raise StorageError(f"cannot write to {self.address}: {explain(error)}") from None
        self._staging.prepare(scratch)

    def tidy(self) -> None:
        self._staging.tidy()
        hidden = self._path(STAGING)
        with contextlib.suppress(Exception), self._connection() as fs:
            if not _is_link(fs, hidden):
                for path in _tokens(fs, hidden, self.own):
                    fs.rm_file(path)
                if self.own:
                    return  # other shards use the folder
                if others := fs.ls(hidden, detail=False):
                    log.warning(
                        "%s/%s is not removed: it contains %d files that imageloom did not make",
                        self.address,
                        STAGING,
                        len(others),
                    )
                else:
                    fs.rmdir(hidden)

    def commit(self, token: str, key: str, maker: str, replace: bool) -> None:
        """Upload and rename. The name was checked when it was claimed."""
        data = self._staging.take(token)
        self._put(token, key, len(data), lambda fs, hidden: fs.pipe_file(hidden, data))

    def publish(self, token: str, key: str, maker: str = "", replace: bool = True) -> None:
        """Upload an output that was made as a file; others were uploaded by `commit`."""
        path = self._staging.file(token)
        if path is None:
            return
        self._put(token, key, os.path.getsize(path), lambda fs, hidden: fs.put_file(path, hidden))
        self._staging.discard(token)

    def _put(
        self, token: str, key: str, size: int, upload: Callable[[AbstractFileSystem, str], object]
    ) -> None:
        hidden = self._path(f"{STAGING}/{token}")
        checked(key)
        with self._writing(key) as fs:
            try:
                upload(fs, hidden)
                self._rename(fs, hidden, key, size)
            except Exception:
                with contextlib.suppress(Exception):
                    fs.rm_file(hidden)
                raise

    def _rename(self, fs: AbstractFileSystem, hidden: str, key: str, size: int) -> None:
        """Rename a complete upload to its final name."""
        if fs.info(hidden)["size"] != size:
            raise UnwritableOutput(f"cannot put {key}: the upload was incomplete")
        folder = key.rpartition("/")[0]
        if folder and folder not in self._folders:
            parts = folder.split("/")
            for count in range(1, len(parts) + 1):
                if _is_link(fs, self._path("/".join(parts[:count]))):
                    raise OutputExists(
                        f"{folder} is, or lies behind, a symbolic link: outputs are not written through links"
                    )
            try:
                fs.makedirs(self._path(folder), exist_ok=True)
            except OSError:
                if not fs.isdir(self._path(folder)):  # another connection has created it at the same time
                    raise
            self._folders.add(folder)
        if fs.isdir(self._path(key)):
            raise OutputExists(f"its output {key} exists and is a folder")
        fs.mv(hidden, self._path(key))

    def _path(self, key: str) -> str:
        return f"{self._root}/{checked(key)}".lstrip("/" if not self._root else "")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[AbstractFileSystem]:
        try:
            with self._connection() as fs:
                yield fs
        except ItemError:
            raise
        except Exception as error:
            raise UnreadableItem(f"cannot read it: {explain(error)}") from None

    @contextlib.contextmanager
    def _writing(self, key: str) -> Iterator[AbstractFileSystem]:
        try:
            with self._connection() as fs:
                yield fs
        except ItemError:
            raise
        except Exception as error:
            is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            kind = DiskFull if is_full else UnwritableOutput
            raise kind(f"cannot put {key}: {explain(error)}") from None


def _is_link(fs: AbstractFileSystem, path: str) -> bool:
    """Whether a path is a link, if the file system can tell."""
    try:
        if lstat := getattr(getattr(fs, "ftp", None), "lstat", None):  # SFTP: fsspec itself follows links
            return stat.S_ISLNK(lstat(path).st_mode)
        found = fs.info(path)
        return bool(found.get("islink")) or found["type"] == "link"
    except FileNotFoundError:
        return False


def _tokens(fs: AbstractFileSystem, folder: str, own: str) -> list[str]:
    """Paths of the staged files in a folder whose names begin with `own`."""
    found = {
        one["name"]: one["name"].rpartition("/")[2]
        for one in fs.ls(folder, detail=True)
        if one["type"] == "file"
    }
    return [path for path, name in found.items() if is_token(name) and name.startswith(own)]


def _connect(address: str) -> tuple[AbstractFileSystem, str]:
    """Open a connection; returns it with the path of the address."""
    scheme, _, rest = address.partition("://")
    try:
        import fsspec
    except ImportError:
        raise MissingExtra(f"{scheme}://", EXTRAS.get(scheme, "fsspec")) from None
    if scheme not in fsspec.available_protocols():
        raise UsageError(
            f"there is no scheme {scheme}://; there are: file, s3, gs, az, gdrive, sftp, zip, tar and those of "
            "fsspec"
        )
    try:
        if scheme in ARCHIVES:
            archive, inner = _split(rest)
            return fsspec.filesystem(scheme, fo=archive, skip_instance_cache=True), inner
        if scheme in EXTRAS:
            from imageloom.stores.sftp import KnownHostsFileSystem as Sftp

            fs = Sftp(skip_instance_cache=True, **Sftp._get_kwargs_from_urls(address))
            return fs, Sftp._strip_protocol(address).rstrip("/")
        fs, root = fsspec.core.url_to_fs(address, skip_instance_cache=True)
        return fs, root.rstrip("/")
    except ImportError:
        if scheme in EXTRAS:
            raise MissingExtra(f"{scheme}://", EXTRAS[scheme]) from None
        raise StorageError(f"{scheme}:// needs a package for fsspec that is not installed") from None
    except ImageloomError:
        raise
    except Exception as error:
        raise StorageError(f"cannot connect to {scheme}://: {explain(error)}") from None


def _split(rest: str) -> tuple[str, str]:
    """Split the path of an archive from the path of a folder inside it: `photos.zip/2026`."""
    parts = rest.split("/")
    for count in range(1, len(parts) + 1):
        path = "/".join(parts[:count])
        if os.path.isfile(path):
            return path, "/".join(parts[count:]).rstrip("/")
    raise StorageError(f"there is no file {rest}")


def _item(key: str, info: Mapping[str, Any]) -> Item:
    moment = next((info[name] for name in _TIMES if info.get(name)), 0)
    if isinstance(moment, datetime):
        moment = moment.timestamp()
    version = next((str(info[name]) for name in _VERSIONS if info.get(name)), "")
    seconds = float(moment) if isinstance(moment, (int, float)) else 0.0
    return Item(key, info["size"] or 0, int(seconds * 1_000_000) * 1000, version.strip('"'))


def _check_size(size: int | None, limit: int) -> int | None:
    if size is not None and size > limit:
        raise LimitExceeded(f"the file is {size:,} bytes, over the limit of {limit:,} (--max-file-size)")
    return size


def explain(error: Exception) -> str:
    """An error as text. The message of an error that is not an OSError may contain secrets and is not used."""
    if isinstance(error, ImageloomError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "there is no such file or folder"
    if isinstance(error, PermissionError) or "Auth" in type(error).__name__:
        return f"access is denied: check the credentials and their rights ({type(error).__name__})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"the store failed ({type(error).__name__})"
