"""Outputs in a local folder that survive a power cut: how they are flushed, and how they get their names."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from imageloom.errors import UnwritableOutput
from imageloom.stores.names import STAGING
from imageloom.system import disk, folders


class Flusher:
    """Flushes the outputs of a folder to the disk, with one call for many where the file system allows it.

    Args:
        root: the open folder, opened before any output was staged; the caller closes it.
        address: path of the folder.
    """

    def __init__(self, root: int, address: str) -> None:
        self._root = root
        self._address = address
        self._is_at_once = disk.flushes_at_once(root)
        self._is_named = False
        """Whether the name of the folder itself was flushed."""

    def flush(self, tokens: Sequence[str], keys: Sequence[str]) -> None:
        """Flush the content of staged outputs, and the names of published ones.

        Raises:
            OSError: the disk reported an error, or an output does not exist.
        """
        if self._is_at_once:
            disk.flush_all(self._root)
            return
        if not self._is_named:
            disk.flush_names(self._address)
            self._is_named = True
        staging = folders.open_below(self._root, STAGING)
        try:
            disk.flush_files(tokens, staging)
        finally:
            os.close(staging)
        disk.flush_below(keys, self._root)


class Renamed(NamedTuple):
    """A staged output that has got its name."""

    mtime_ns: int
    replaced: str = ""
    """The token of the folder that it replaced, which is now among the staged outputs; empty for a file or a new
    name."""


def rename(token: str, staging: int, name: str, at: int, replace: bool = True) -> Renamed:
    """Give a staged output its name in one step.

    Args:
        token: its name in the open folder `staging`.
        at: the open folder in which it is named.
        replace: whether the name may exist.

    Raises:
        FileExistsError: the name exists.
        OSError, UnwritableOutput: it cannot be renamed.
    """
    found = os.stat(token, dir_fd=staging, follow_symlinks=False)
    mode = found.st_mode
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise UnwritableOutput(f"the staged output of {name} is not a regular file")
    if not replace:
        folders.rename_new(token, staging, name, at)
        return Renamed(found.st_mtime_ns)
    if stat.S_ISDIR(mode) and _is_there(name, at):
        return Renamed(found.st_mtime_ns, _put_in_place_of(token, staging, name, at))
    os.rename(token, name, src_dir_fd=staging, dst_dir_fd=at)
    return Renamed(found.st_mtime_ns)


def _put_in_place_of(token: str, staging: int, name: str, at: int) -> str:
    """Rename a folder to an existing name: a rename alone cannot replace a folder."""
    old = f"{token}.old"
    os.rename(name, old, src_dir_fd=at, dst_dir_fd=staging)
    try:
        os.rename(token, name, src_dir_fd=staging, dst_dir_fd=at)
    except OSError:
        os.rename(old, name, src_dir_fd=staging, dst_dir_fd=at)
        raise
    return old


def _is_there(name: str, at: int) -> bool:
    try:
        os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
