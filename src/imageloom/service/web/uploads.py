"""Uploads: images that are written into the source of a flow, which is a local folder.

A file is written beside its place under a hidden name, flushed, and then gets its name. So nobody sees a part of
it, and no existing file is replaced.
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from starlette.concurrency import run_in_threadpool

from imageloom import codecs
from imageloom.driver.source import Source
from imageloom.errors import StorageError, UnsupportedImage, UnwritableOutput, WrongState
from imageloom.service.flows import Flow
from imageloom.stores.names import check_output_name
from imageloom.stores.remote import is_hidden
from imageloom.system import folders
from imageloom.system.beneath import open_beneath

PREFIX = ".imageloom-upload-"
OLD = 3600.0
"""Seconds after which a part of an upload is left over by a service that was killed."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


async def upload(flow: Flow, roots: tuple[str, ...], key: str, data: AsyncIterator[bytes]) -> int:
    """Write an image into the source of a flow. Returns its size in bytes.

    Args:
        roots: folders that the source must be below.
        key: the image's path, relative to the source.

    Raises:
        InvalidName: the key is not a path below a folder, or is hidden.
        UnsupportedImage: the flow would not process a file of this name.
        WrongState: there is such a file, or the source is not a local folder.
        StorageError: it cannot be written.
    """
    check_output_name(key)
    source = await run_in_threadpool(_source, flow, roots)
    if is_hidden(key) or codecs.format_of(key) is None or not source.matches(key):
        raise UnsupportedImage(f"the flow {flow.name} does not process files with the name {key!r:.200}")
    part = await run_in_threadpool(_Part, source.root, roots, key)
    try:
        async for piece in data:
            await run_in_threadpool(part.write, piece)
        return await run_in_threadpool(part.finish)
    finally:
        await run_in_threadpool(part.close)


def _source(flow: Flow, roots: tuple[str, ...]) -> Source:
    source = Source(flow.job.source, flow.job.include, flow.job.exclude, flow.job.links, roots)
    if source.is_file or not source.store.is_local:
        raise WrongState("uploads are written into local folders only: put the file into the source's store")
    return source


class _Part:
    """A file that is being uploaded. No part of its path may be a link."""

    def __init__(self, root: str, roots: tuple[str, ...], key: str) -> None:
        above, _, self._name = key.rpartition("/")
        self._key, self._size = key, 0
        self._hidden = f"{PREFIX}{secrets.token_hex(8)}"
        self._file = self._folder = -1
        try:
            top = open_beneath(root, _FOLDER, roots)
            try:
                self._folder = folders.open_below(top, above, make=True)
            finally:
                os.close(top)
            _sweep(self._folder)
            self._file = folders.make_file(self._hidden, self._folder)
        except OSError as error:
            self.close()
            raise self._unwritable(error) from None

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            raise StorageError(f"cannot write {self._key}: {error.strerror}") from None
        self._size += len(data)

    def finish(self) -> int:
        """Give the file its name."""
        try:
            os.fsync(self._file)
            os.link(self._hidden, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            os.unlink(self._hidden, dir_fd=self._folder)
            os.fsync(self._folder)
        except FileExistsError:
            raise WrongState(f"the source has a file {self._key!r:.200} already") from None
        except OSError as error:
            raise self._unwritable(error) from None
        return self._size

    def close(self) -> None:
        """Remove what was not finished."""
        if self._file >= 0:
            with suppress(OSError):
                os.unlink(self._hidden, dir_fd=self._folder)
        for file in (self._file, self._folder):
            if file >= 0:
                os.close(file)

    def _unwritable(self, error: OSError) -> UnwritableOutput:
        return UnwritableOutput(f"cannot write {self._key!r:.200}: {error.strerror}")


def _sweep(folder: int) -> None:
    """Remove old parts of uploads."""
    for name in os.listdir(folder):
        if name.startswith(PREFIX):
            with suppress(OSError):
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISREG(found.st_mode) and found.st_mtime < time.time() - OLD:
                    os.unlink(name, dir_fd=folder)
