"""The sources of a service's jobs: people set items aside, or try them again, while the job runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from imageloom.driver.source import Source
from imageloom.driver.watch import Watched
from imageloom.errors import ItemError, UnreadableItem
from imageloom.model import Failure, Item, Unlisted, page_key, path_and_page
from imageloom.service.flows import Flow
from imageloom.stores.remote import is_hidden

MOST_HEARD = 10_000
"""Maximum number of names from notifications that wait; with more, the source is listed."""


class ListedSource(Source):
    """All images of a source, once.

    Args:
        roots: local folders that the source must be inside.
        is_wanted: whether an item is to be processed, by its key. Asked when it is listed.
    """

    def __init__(self, flow: Flow, roots: tuple[str, ...], is_wanted: Callable[[str], bool]) -> None:
        job = flow.job
        super().__init__(job.source, job.include, job.exclude, job.links, roots)
        self._may_begin = is_wanted

    def __iter__(self) -> Iterator[Item | Unlisted]:
        return (entry for entry in super().__iter__() if self._may_begin(entry.key))

    def split(self, path: str, count: int) -> Sequence[int]:
        return [page for page in range(count) if self._may_begin(page_key(path, page))]

    def count(self) -> int:
        """The number of items, listed now."""
        return sum(1 for _ in super().__iter__())


class ChosenItems(Source):
    """Some items of a source, by their keys."""

    def __init__(self, flow: Flow, roots: tuple[str, ...], keys: list[str]) -> None:
        job = flow.job
        super().__init__(job.source, job.include, job.exclude, job.links, roots)
        self._keys = keys

    def __iter__(self) -> Iterator[Item | Unlisted]:
        for path in dict.fromkeys(path_and_page(key)[0] for key in self._keys):
            try:
                found = self.store.find(path)
            except ItemError as error:
                yield Unlisted(path, Failure.of(error))
                continue
            yield found or Unlisted(path, Failure.of(UnreadableItem("the file no longer exists")))


class SteeredWatch(Watched):
    """A watched source.

    Args:
        is_wanted: see `ListedSource`.
        failed: items that failed before: when each was tried last, in seconds since the epoch. They are processed
            again only when their files change, or if somebody asks for it.
    """

    def __init__(
        self,
        flow: Flow,
        roots: tuple[str, ...],
        is_wanted: Callable[[str], bool],
        failed: dict[str, float],
    ) -> None:
        job = flow.job
        poll = flow.options.poll
        super().__init__(job.source, job.include, job.exclude, poll, None, job.links, roots)
        self._may_begin = is_wanted
        self._failed_before = failed
        self._asked: deque[str] = deque()
        self._heard: dict[str, None] = {}
        self._must_list = False

    def again(self, key: str) -> None:
        """Process an item again, and with it the other pages of its file that failed. From any thread."""
        self._asked.append(path_and_page(key)[0])
        self._wake()

    def is_wanted(self, key: str) -> bool:
        return self._may_begin(key)

    def hear(self, keys: Iterable[str]) -> None:
        """Look at items that may be new or changed, without waiting for the next listing. From any thread."""
        for key in keys:
            self._heard[key] = None
        if len(self._heard) > MOST_HEARD:
            self._heard.clear()
            self._must_list = True
        self._wake()

    def _news(self) -> Iterator[Item | Unlisted]:
        return chain(self._look_at_asked(), self._look_at_heard(), super()._news())

    @property
    def pause(self) -> float:
        return 0.0 if self._asked or self._heard or self._must_list else super().pause

    def _look_at_heard(self) -> Iterator[Item | Unlisted]:
        if self._must_list:
            self._must_list, self._next_listing = False, 0.0
        while self._heard:
            try:
                key = next(iter(self._heard))
            except (StopIteration, RuntimeError):  # another thread has changed it
                continue
            self._heard.pop(key, None)
            if self.matches(key) and not is_hidden(key):
                yield from self._consider(key)

    def _look_at_asked(self) -> Iterator[Item | Unlisted]:
        while self._asked:
            key = self._asked.popleft()
            self._failed_before.pop(key, None)
            self._known.pop(key, None)
            yield from self._consider(key)

    def _take(self, key: str, entry: Item | Unlisted, moment: float) -> Iterator[Item | Unlisted]:
        if not self._may_begin(key):
            return
        tried = self._failed_before.pop(key, 0.0)
        if moment < tried:
            self._learn(key, entry.fingerprint if isinstance(entry, Item) else entry.failure.message)
        yield from super()._take(key, entry, moment)
