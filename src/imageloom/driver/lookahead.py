"""What the driver must ask the stores about an item before it is planned, ahead where that takes a while.

The ledger is asked in the driver's thread, the stores in others: with N requests in flight no item waits for
two round trips one after the other; measuring finds N. A small file is read as a whole, and kept for the workers
of this process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from imageloom import codecs, stores
from imageloom.driver.sink import Sink, output_name
from imageloom.driver.source import Source
from imageloom.engines import Engine
from imageloom.errors import LimitExceeded
from imageloom.model import Header, Item, Job, Unlisted
from imageloom.worker.controller import Controller, for_requests

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")
Entry = Item | Unlisted | None
"""What a source yields; None where it has nothing at the moment."""

WHOLE = 16 << 20
"""Bytes of a file up to which it is read ahead as a whole."""


class Look(NamedTuple):
    """What the stores say of an item that is to be done."""

    header: Header
    names: tuple[str, ...]
    taken: frozenset[str] | None
    """Those of the names that something has; None where it costs nothing to look later."""


class Questions:
    """The questions of one run.

    Args:
        meaning: of the recipe, as the ledger has it.
        memory: bytes that the work in hand may need.
    """

    def __init__(
        self, job: Job, source: Source, sink: Sink, meaning: str, engine: Engine, memory: int
    ) -> None:
        self._job = job
        self._source = source
        self._sink = sink
        self._meaning = meaning
        self._memory = memory
        self._keeps = not source.store.is_local and engine.capabilities.shares_memory
        self.take_long = not (source.store.is_local and sink.store.is_local)
        """Each is a round trip."""

    def entries(self, wake: Callable[[], None]) -> Iterator[tuple[Entry, Callable[[], Look | None]]]:
        """The source's entries in their order, each with what gives the answer.

        Args:
            wake: as of `Source.entries`.
        """
        entries = ((entry, self._question(entry)) for entry in self._source.entries(wake))
        if not self.take_long:
            return entries
        return look_ahead(entries, for_requests(self._job.in_flight), self._memory // 8)

    def _question(self, entry: Entry) -> Callable[[], Look | None]:
        if not isinstance(entry, Item):
            return lambda: None
        made = self._sink.made_of(entry, self._meaning, len(self._job.recipe.outputs))
        return lambda: self._look(entry, made)

    def _look(self, item: Item, made: list[tuple[str, int]]) -> Look | None:
        """What the plan of an item needs from the stores; None where its outputs are there already."""
        if self._sink.holds(made):
            return None
        limit = self._job.limits.max_file_size
        if item.size > limit:
            raise LimitExceeded(
                f"the file is {item.size:,} bytes, over the limit of {limit:,} (--max-file-size)"
            )
        header = self._header(item)
        names = tuple(
            output_name(item.key, header.format, output, self._job.name)
            for output in self._job.recipe.outputs
        )
        return Look(header, names, None if self._sink.store.is_local else self._sink.taken(names))

    def _header(self, item: Item) -> Header:
        store = self._source.store
        if self._keeps and item.size <= WHOLE:
            data = store.read(item.key, self._job.limits.max_file_size, item)
            stores.kept[self._source.root, item.key, item.fingerprint] = data
            return codecs.header_of(data)

        def read(start: int, length: int) -> bytes:
            return store.head(item.key, length, start)

        return codecs.read_header(lambda length: read(0, length), item.size, read)

    def drop(self, entry: Item) -> None:
        """Forget what was read of an item that is not done."""
        if self._keeps:
            stores.kept.pop((self._source.root, entry.key, entry.fingerprint), None)

    def close(self) -> None:
        if self._keeps:
            stores.drop_kept(self._source.root)


def with_next(entries: Iterable[tuple[Entry, T]]) -> Iterator[tuple[tuple[Entry, T], bool]]:
    """Each entry, and whether it is the last that is there at the moment."""
    iterator = iter(entries)
    if (current := next(iterator, None)) is None:
        return
    for following in iterator:
        yield current, following[0] is None
        current = following
    yield current, True


def look_ahead(
    entries: Iterable[tuple[Entry, Callable[[], T]]], in_flight: Controller, most_bytes: int
) -> Iterator[tuple[Entry, Callable[[], T]]]:
    """The entries in their order, each with what its question has come to.

    Questions go out in bunches: both ends do many at a time with less work than the same ones one by one.

    Args:
        entries: with the question, which is asked in another thread; what is None has none, and waits for all
            before it.
        in_flight: how many questions are asked at the same time; up to four times as many are asked or answered.
        most_bytes: of the items that are under way or wait.
    """
    from imageloom.worker.pool import SizedExecutor

    window: deque[tuple[Entry, Future[T], int]] = deque()
    held = 0
    full = in_flight.size  # the first bunch is a small one: its answers are waited for
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
    except BaseException:  # nobody asks for the other answers
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown(wait=False)  # the last answers may be asked for after this
