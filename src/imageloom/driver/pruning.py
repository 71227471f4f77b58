"""Outputs whose inputs are gone or have changed: which ones they are, and their removal (`--prune`)."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from imageloom.driver.sink import Sink
from imageloom.driver.source import Source
from imageloom.errors import ItemError, StorageError, UsageError
from imageloom.model import Item, Plain, path_and_page
from imageloom.records.ledger import Ledger
from imageloom.stores import Store
from imageloom.stores.made import Made, check_removes, why_kept


class Orphan(Plain, frozen=True):
    """An output whose input is gone, or has changed and has an output of another name."""

    made: Made
    key: str
    """The item that it was made from."""
    kept: str = ""
    """Why it is not removed; empty if it is."""
    is_old: bool = False
    """Its input is there, but has changed."""

    @property
    def reason(self) -> str:
        """What has become of its input, as text."""
        return f"its input {self.key} {'has changed' if self.is_old else 'is gone'}"


class Pruning:
    """Finds and removes the outputs of a sink whose inputs in a source are gone.

    Only outputs that the ledger knows, that were made from this source, and that nobody has changed since. Of a
    run with a shard, only those of its items.

    Raises:
        UsageError: the source is one file, or is the sink; or the sink cannot tell who has written a file.
    """

    def __init__(self, source: Source, sink: Sink, ledger: Ledger, in_place: bool) -> None:
        if in_place:
            raise UsageError("--prune excludes --in-place, whose outputs are its inputs")
        if source.is_file:
            raise UsageError(
                "--prune needs a folder as the source: one file cannot tell which inputs are gone"
            )
        check_removes(sink.store, sink.address)
        self._source = source
        self._sink = sink
        self._ledger = ledger

    def orphans(self) -> list[Orphan]:
        """The outputs whose inputs are gone, or have outputs with newer names. Nothing is changed.

        Raises:
            StorageError: the source or the sink cannot be read, or the source is empty.
        """
        outputs = self._ledger.outputs_of(self._source.root, self._sink.address)
        known = [one for one in outputs if self._source.is_mine(path_and_page(one[1])[0])]
        gone = self._gone({path_and_page(key)[0] for _, key, _, _ in known}) if known else set()
        superseded = self._superseded()
        found = []
        for name, key, size, mtime_ns in known:
            if path_and_page(key)[0] in gone or name in superseded:
                made = Made(name, self._sink.maker(key), size, mtime_ns)
                kept = why_kept(self._sink.store, made) or ""
                found.append(Orphan(made, key, kept, name in superseded))
        return found

    def _superseded(self) -> set[str]:
        """The outputs of older versions of items that have outputs of their present version under other names,
        made with the same recipe: names with digests change with the item."""
        versions: defaultdict[tuple[str, str], dict[str, list[str]]] = defaultdict(dict)
        for name, key, fingerprint, meaning, _ in self._ledger.made(self._source.root, self._sink.address):
            versions[key, meaning].setdefault(fingerprint, []).append(name)
        found: set[str] = set()
        for (key, _), names in versions.items():
            if len(names) < 2 or (item := self._source.store.find(path_and_page(key)[0])) is None:
                continue
            if item.fingerprint in names:
                found.update(*(old for version, old in names.items() if version != item.fingerprint))
        return found

    def remove(self, orphans: Iterable[Orphan], is_stopping: Callable[[], bool]) -> Iterator[Orphan]:
        """Remove outputs, and yield each one; `kept` says why one was not removed. The sink must be open.

        Args:
            is_stopping: whether no others are to be removed. Asked before each one.

        Raises:
            StorageError: an output cannot be removed.
        """
        removed = []
        try:
            for orphan in orphans:
                if is_stopping():
                    return
                kept = orphan.kept or why_kept(self._sink.store, orphan.made, remove=True) or ""
                if not kept:
                    removed.append(orphan.made.name)
                yield Orphan(orphan.made, orphan.key, kept, orphan.is_old)
        finally:
            self._ledger.forget_outputs(self._sink.address, removed)

    def _gone(self, paths: set[str]) -> set[str]:
        """Those of the paths that are not in the source."""
        store = self._source.store
        if store.is_local:
            if next((entry for entry in store.items() if isinstance(entry, Item)), None) is None:
                raise self._emptied()
            return {path for path in paths if not _exists(f"{store.address}/{path}")}
        there = {entry.key for entry in store.items()}
        if not there:
            raise self._emptied()
        return {path for path in paths - there if not _is_found(store, path)}

    def _emptied(self) -> StorageError:
        return StorageError(
            f"{self._source.root} has no files, so nothing is pruned: if its disk is not mounted, mount it; if "
            "all inputs were deleted on purpose, delete the outputs yourself"
        )


def _is_found(store: Store, path: str) -> bool:
    """Whether a remote store has a file: listings leave out hidden ones. One with an invalid key counts as found.

    Raises:
        StorageError: the store cannot be asked.
    """
    try:
        return store.find(path) is not None
    except ItemError:
        return True


def _exists(path: str) -> bool:
    """Whether a path exists. One that cannot be asked for counts as existing."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
