"""Lookahead: asks the stores about items before they are planned, if requests take long.

The ledger is queried in the driver's thread, the stores in other threads. With N requests in flight, no item waits
for its round trips; N is tuned automatically. A small file is read as a whole, and kept for the workers of this
process.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from msgspec.structs import replace

from imageloom import codecs, stores
from imageloom.driver.items import ItemNames
from imageloom.driver.sink import Sink
from imageloom.driver.source import Source
from imageloom.engines import Engine
from imageloom.errors import CorruptImage, InvalidName, ItemError, LimitExceeded, MissingExtra
from imageloom.model import MOST_PAGES, Header, Item, Job, Unlisted, page_key
from imageloom.recipes.meaning import Meanings
from imageloom.worker.controller import Controller, for_requests

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")
Entry = Item | Unlisted | None
"""An entry of a source; None if it has none at the moment."""

WHOLE = 16 << 20
"""Remote files of at most this number of bytes are read ahead as a whole."""


class Answers(NamedTuple):
    """The answers of the stores about an item that is to be processed."""

    header: Header
    names: tuple[str, ...]
    taken: frozenset[str] | None
    """The output names that already exist in the sink; None if they are looked up later (local sinks)."""


class Lookahead:
    """The lookahead of one run.

    Args:
        meanings: the texts that identify the recipe in the ledger.
        memory: memory of the run, in bytes.
    """

    def __init__(
        self, job: Job, source: Source, sink: Sink, meanings: Meanings, engine: Engine, memory: int
    ) -> None:
        self._job = job
        self._source = source
        self._sink = sink
        self._meanings = meanings
        self._memory = memory
        self.names = ItemNames(job)
        self.keeps = not source.store.is_local and engine.capabilities.shares_memory
        """Whether whole files are kept for the workers, which are in this process."""
        self.take_long = not (source.store.is_local and sink.store.is_local)
        """Whether each question is a round trip to a remote store."""

    def entries(self, wake: Callable[[], None]) -> Iterator[tuple[Entry, Callable[[], Answers | None]]]:
        """The source's entries in order, each with a function that returns the answers.

        Args:
            wake: see `Source.entries`.
        """
        found = self._source.entries(wake)
        if self._job.recipe.pages != "first":
            found = itertools.chain.from_iterable(map(self._pages, found))
        entries = ((entry, self._question(entry)) for entry in found)
        if not self.take_long:
            return entries
        return look_ahead(entries, for_requests(self._job.in_flight), self._memory // 8)

    def _pages(self, entry: Entry) -> list[Entry]:
        """The pages of a file that are wanted, as items; the file itself if it has only one page or is damaged."""
        if not isinstance(entry, Item):
            return [entry]
        wanted = self._job.recipe.pages
        if isinstance(wanted, int):
            return [replace(entry, key=page_key(entry.key, wanted - 1)) if wanted > 1 else entry]
        try:
            count = self._header(entry).pages
        except (ItemError, MissingExtra):  # asked again for the answers: it is an error of this item then
            return [entry]
        if count == 1 or "{page}" not in self._job.name:
            return [entry]
        count = min(count, MOST_PAGES)
        pages = self._source.split(entry.key, count)
        self.drop(entry)
        return [replace(entry, key=page_key(entry.key, page)) for page in pages]

    def _question(self, entry: Entry) -> Callable[[], Answers | None]:
        if not isinstance(entry, Item):
            return lambda: None
        count = 0 if self.names.varies else len(self._job.recipe.outputs)
        made = self._sink.made_of(entry, self._meanings.of(entry.key), count)
        return lambda: self._ask(entry, made)

    def _ask(self, item: Item, made: list[tuple[str, int]]) -> Answers | None:
        """Ask the stores what is needed to plan an item; None if its outputs exist already."""
        if not self.names.varies and self._sink.holds(made):
            return None
        limit = self._job.limits.max_file_size
        if item.size > limit:
            raise LimitExceeded(
                f"the file is {item.size:,} bytes, over the limit of {limit:,} (--max-file-size)"
            )
        header = self._header(item)
        if self._job.recipe.pages == "all" and header.pages > 1 and "{page}" not in self._job.name:
            raise InvalidName(
                f"the file has {header.pages:,} pages: give their outputs names with {{page}}, such as --name "
                "'{dir}/{stem}-{page}.{ext}'"
            )
        header, names = self.names.of(item, header, lambda: self._exif(item, header))
        if self.names.varies and self._is_done(made, names):
            return None
        return Answers(header, names, None if self._sink.store.is_local else self._sink.taken(names))

    def _is_done(self, made: list[tuple[str, int]], names: tuple[str, ...]) -> bool:
        """Whether the outputs are those that an item has by its header, and exist."""
        if len(made) != len(names) or not self._sink.holds(made):
            return False
        return self.names.hashed or {name for name, _ in made} == set(names)

    def _exif(self, item: Item, header: Header) -> bytes:
        """The EXIF block of an item's file; empty if it is damaged."""
        store = self._source.store
        try:
            if path := store.path(item.path):
                return codecs.metadata_of(path, header.format, header.page).exif
            name = self._source.root, item
            data = stores.kept.get(name) or store.read(item.path, self._job.limits.max_file_size, item)
            return codecs.read_metadata(data, header.format, header.page).exif
        except CorruptImage:
            return b""

    def _header(self, item: Item) -> Header:
        store, density = self._source.store, self._job.recipe.density
        if self.keeps and item.size <= WHOLE:
            name = self._source.root, item
            if (data := stores.kept.get(name)) is None:
                data = stores.kept[name] = store.read(item.path, self._job.limits.max_file_size, item)
            return codecs.header_of(data, item.page, density)
        path = item.path

        def read(start: int, length: int) -> bytes:
            return store.head(path, length, start)

        return codecs.read_header(lambda length: read(0, length), item.size, read, item.page, density)

    def drop(self, entry: Item) -> None:
        """Drop the data that was read ahead for an item, or for a file, that is not processed."""
        if self.keeps:
            stores.kept.pop((self._source.root, entry), None)

    def close(self) -> None:
        if self.keeps:
            stores.drop_kept(self._source.root)


def with_next(entries: Iterable[tuple[Entry, T]]) -> Iterator[tuple[tuple[Entry, T], bool]]:
    """Each entry, and whether it is the last one at the moment.

    A None is yielded without asking for the entry after it: that one would wait here while the driver waits.
    """
    waiting: tuple[Entry, T] | None = None
    for current in entries:
        is_none = current[0] is None
        if waiting is not None:
            yield waiting, is_none
        waiting = None if is_none else current
        if is_none:
            yield current, True
    if waiting is not None:
        yield waiting, True


def look_ahead(
    entries: Iterable[tuple[Entry, Callable[[], T]]], in_flight: Controller, most_bytes: int
) -> Iterator[tuple[Entry, Callable[[], T]]]:
    """The entries in order, each with the answer to its question.

    Questions are asked in groups: sending several at a time is less work on both sides.

    Args:
        entries: each with its question, which is asked in another thread. A None has no question, and is yielded
            after all entries before it.
        in_flight: number of questions that are asked at the same time; up to four times as many wait or are
            answered.
        most_bytes: maximum size of all items whose questions are asked or answered, in bytes.
    """
    from imageloom.worker.pool import SizedExecutor

    window: deque[tuple[Entry, Future[T], int]] = deque()
    held = 0
    full = in_flight.size  # the first group is small: the run waits for its answers
    pool = SizedExecutor(in_flight, "ahead")
    try:
        for entry, question in entries:
            size = min(entry.size, WHOLE) if isinstance(entry, Item) else 0
            keep = full
            if len(window) >= full:
                keep, full = full // 4, 4 * in_flight.size
            while window and (entry is None or len(window) > keep or held + size > most_bytes):
                first, answer, its_size = window.popleft()
                held -= its_size
                yield first, answer.result
            if entry is None:
                yield entry, question
                continue
            window.append((entry, pool.submit(question), size))
            held += size
        while window:
            first, answer, _ = window.popleft()
            yield first, answer.result
    except BaseException:  # the other answers are not needed
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown(wait=False)  # the last answers may still be needed
