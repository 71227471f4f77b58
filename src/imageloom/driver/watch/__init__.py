"""An endless source: the files in a folder or a bucket, and new files as they arrive. Incomplete files must wait.

The driver asks for items in its own thread, as with any source, so no queue of items can grow. For each file,
the source remembers the version that was last finished (done or failed). A file with another version is checked
until it is complete, and only then yielded. Only one version of a file is in progress at a time, so an older
version never overwrites a newer one.
"""

from __future__ import annotations

import heapq
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from imageloom.driver.source import Source
from imageloom.driver.watch.changes import Changes
from imageloom.driver.watch.files import is_shared, is_written_to, look
from imageloom.driver.watch.states import InProgress, Waiting
from imageloom.errors import StorageError, UsageError
from imageloom.model import Item, Links, Unlisted, page_key, path_and_page
from imageloom.records.events import Done, Event, Failed, Skipped, SkipReason
from imageloom.records.losses import LeftOut
from imageloom.stores import Feed
from imageloom.stores.local import LocalStore
from imageloom.stores.remote import is_hidden
from imageloom.system.announcing import Announcer

QUIET = 0.1
"""A file that no process writes to is complete after this number of seconds without a change."""
QUIET_UNSURE = 2.0
"""The same, if it is unknown whether a process writes to the file."""
TRUSTED_AGE = 60.0
"""A file whose last change is this old, in seconds, is complete at the first check. Clocks may differ."""
LONGEST = 1.0
"""Maximum seconds between two checks of a file that is being written."""
RESCAN = 60.0
"""Seconds between two listings of a folder with change notifications, because notifications can be lost."""
POLL = 5.0
"""Seconds between two listings without change notifications, or between two requests for changes."""
RELIST = 3600.0
"""Seconds between two listings of a store that can be asked for changes."""
LONGEST_PAUSE = 1.0
"""Maximum seconds of one wait of the driver: a signal just before the wait would not interrupt it."""
CHUNK = 500
"""Number of entries of a listing after which the driver gets control."""
BACKOFF = 60.0
"""Back-off in seconds after a file could not be read or written. It doubles each time, up to MOST_BACKOFF."""
MOST_BACKOFF = 3600.0
IDLE = 10.0
"""Seconds without work after which a watch says that it is idle."""
REMEMBERED = 10_000
"""Number of recent latencies that are kept for the percentiles."""
_STORES_FAULT = ("UnreadableItem", "UnwritableOutput", "DiskFull")


class Watched(Source):
    """The images of a folder or a bucket, and new images as they arrive.

    Args:
        address, include, exclude: see `Source`.
        poll: seconds between two listings; 0: change notifications for local folders, `POLL` for others.
        until_idle: the source ends when all items are done and none has arrived for this number of seconds; None:
            never.
        links, roots: see `Source`.

    Raises:
        StorageError: there is no such folder.
        UsageError: the address is a file.
        MissingExtra: watchfiles is needed and not installed.
    """

    def __init__(
        self,
        address: str,
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        poll: float = 0.0,
        until_idle: float | None = None,
        links: Links = "inside",
        roots: tuple[str, ...] = (),
    ) -> None:
        super().__init__(address, include, exclude, links, roots)
        self._links = links
        if self.is_file:
            raise UsageError(
                f"{address} is a file: watch its folder instead, with --include and the file's name"
            )
        self._folder = self.store if isinstance(self.store, LocalStore) else None
        self._real = os.path.realpath(self.root) if self._folder else ""
        shared = bool(self._folder) and is_shared(self._real)
        self._is_sure = bool(self._folder) and not shared
        self._has_notifications = self._is_sure and not poll
        self._period = poll or (RESCAN if self._has_notifications else POLL)
        self._until_idle = until_idle
        self._wake: Callable[[], None] = lambda: None
        self._changes: Changes | None = None
        self._is_ending = False
        self._began = time.time()
        self._feed: Feed | None = None
        self._next_question = 0.0
        self._listing: Iterator[Item | Unlisted] | None = None
        self._listed: set[int] = set()
        self._passed_over = LeftOut()
        """The files that the current listing leaves out."""
        self._listings = 0
        self._next_listing = 0.0
        self._known: dict[str, str] = {}
        self._waiting: dict[str, Waiting] = {}
        self._due: list[tuple[float, str]] = []
        self._due_at: dict[str, float] = {}
        self._out: dict[str, InProgress] = {}
        self._changed: set[str] = set()
        self._tries: dict[str, int] = {}
        self._idle_since = time.monotonic()
        self._announcer = Announcer(f"watch {self.root}")
        self.latencies: deque[float] = deque(maxlen=REMEMBERED)
        """Seconds from a complete file to published outputs, of the latest items."""

    # Called by the driver

    is_endless = True

    def entries(self, wake: Callable[[], None]) -> Iterator[Item | Unlisted | None]:
        """Yield items when their files are complete; None if there is none at the moment."""
        self._wake = wake
        try:
            while not self._is_over:
                found = False
                for entry in self._news():
                    found = True
                    yield entry
                    if self._is_ending:
                        return
                if not found:
                    if self._listings and self._is_idle and time.monotonic() - self._idle_since >= IDLE:
                        self._announcer.say("idle: waiting for new images")
                    yield None
        finally:
            if self._changes:
                self._changes.close()

    def _news(self) -> Iterator[Item | Unlisted]:
        return chain(self._look_at_changes(), self._ask_for_changes(), self._look_at_due(), self._list())

    @property
    def pause(self) -> float:
        """Seconds after which to ask again, if `wake` is not called before."""
        if self._listing or self._is_ending or (self._changes and self._changes.are_there):
            return 0.0
        until = min(self._next_listing, self._due[0][0] if self._due else float("inf"))
        if self._feed:
            until = min(until, self._next_question)
        if self._until_idle is not None and self._is_idle:
            until = min(until, self._idle_since + self._until_idle)
        return max(0.0, min(until - time.monotonic(), LONGEST_PAUSE))

    def outdated(self, item: Item, failed: bool) -> SkipReason | None:
        """Why the result of an item must be ignored: its file was deleted or changed; None if it counts.

        On a remote store this is checked only after a failure, because it needs a request. A replaced object is
        found by the next listing anyway.
        """
        if not (failed or self._folder):
            return None
        try:
            found = self._find(item.path)
        except StorageError:
            return None
        if found is None:
            return "gone"
        return None if _version(found[0]) == item.fingerprint else "changed meanwhile"

    def waited(self, key: str) -> float:
        out = self._out.get(path_and_page(key)[0])
        return max(0.0, time.time() - out.came) if out else 0.0

    def split(self, path: str, count: int) -> Sequence[int]:
        """Note that a file has so many pages. It is done when all of them are that are wanted."""
        pages = [page for page in range(count) if self.is_wanted(page_key(path, page))]
        if path in self._out:
            self._out[path] = self._out[path]._replace(left=max(1, len(pages)))
            if not pages:
                self._settle_up(path, is_known=True)
        return pages

    def is_wanted(self, key: str) -> bool:
        """Whether a page is processed."""
        return True

    def end(self) -> None:
        """Yield no more items; the driver finishes those in progress. Safe to call from a signal handler."""
        self._is_ending = True
        self._wake()

    def __call__(self, event: Event) -> None:
        """Handle an event of the driver: an item is done, failed or skipped."""
        match event:
            case Done(result, waited=waited):
                self.latencies.append(waited)
                self._tries.pop(path_and_page(result.key)[0], None)
                self._settle_up(result.key, is_known=True)
            case Failed(result):
                is_theirs = result.failure is not None and result.failure.kind in _STORES_FAULT
                path = path_and_page(result.key)[0]
                if is_theirs and path in self._out:
                    tries = self._tries[path] = self._tries.get(path, 0) + 1
                    self._schedule_check(path, min(MOST_BACKOFF, BACKOFF * 2.0 ** min(tries - 1, 20)))
                self._settle_up(result.key, is_known=True)
            case Skipped(item, reason):
                self._settle_up(item.key, is_known=reason not in ("gone", "changed meanwhile"))

    def _settle_up(self, key: str, is_known: bool) -> None:
        path = path_and_page(key)[0]
        out = self._out.pop(path, None)
        if out is None:
            return
        key, is_known = path, is_known and out.is_known
        if out.left > 1:
            self._out[path] = out._replace(left=out.left - 1, is_known=is_known)
            return
        self._idle_since = time.monotonic()
        if is_known:
            self._learn(key, out.version)
        if key in self._changed or not is_known:
            self._changed.discard(key)
            self._schedule_check(key, 0.0)

    def _learn(self, key: str, version: str) -> None:
        self._known[key] = version
        if self._listing:
            self._listed.add(hash(key))  # the listing may have missed it

    def _schedule_check(self, key: str, seconds: float) -> None:
        """Schedule a check of a file, or of a folder (a key that ends with a slash), in `seconds` or earlier."""
        at = time.monotonic() + seconds
        if at < self._due_at.get(key, float("inf")):
            self._due_at[key] = at
            heapq.heappush(self._due, (at, key))

    @property
    def _is_idle(self) -> bool:
        return not (
            self._out or self._waiting or self._listing or (self._changes and self._changes.are_there)
        )

    @property
    def _is_over(self) -> bool:
        if self._until_idle is not None and self._listings and self._is_idle:
            return self._is_ending or time.monotonic() - self._idle_since >= self._until_idle
        return self._is_ending

    # Finding changes

    def _look_at_changes(self) -> Iterator[Item | Unlisted]:
        paths = self._changes.take() if self._changes else []
        if paths is None:
            self._next_listing = 0.0
            return
        for path in paths:
            key = os.path.relpath(path, self._real)
            if key == "." or key.startswith("../") or is_hidden(key):
                continue
            if os.path.isdir(path) and not os.path.islink(path):
                self._schedule_check(f"{key}/", 1.0)  # the folder is watched by then
                yield from self._list_folder(f"{key}/")
            elif self.matches(key):
                yield from self._consider(key)

    def _ask_for_changes(self) -> Iterator[Item | Unlisted]:
        """Ask the store for changes, if the next request is due."""
        if self._feed is None or self._listing or time.monotonic() < self._next_question:
            return
        self._next_question = time.monotonic() + self._period
        try:
            keys = self._feed.take()
        except StorageError as error:
            logging.getLogger(__name__).warning("%s", error)
            return
        if keys is None:
            self._next_listing = 0.0
            return
        for key in keys:
            if not is_hidden(key) and self.matches(key):
                yield from self._consider(key)

    def _look_at_due(self) -> Iterator[Item | Unlisted]:
        while self._due and self._due[0][0] <= time.monotonic():
            at, key = heapq.heappop(self._due)
            if self._due_at.get(key) != at:
                continue  # it was already checked
            del self._due_at[key]
            if key in self._tries:
                self._known.pop(key, None)
            if key.endswith("/"):
                yield from self._list_folder(key)
            else:
                yield from self._consider(key)

    def _list_folder(self, key: str) -> Iterator[Item | Unlisted]:
        """The files of a folder that was moved here, or that were written before the folder was watched."""
        if self._folder and os.path.realpath(f"{self._real}/{key}") == f"{self._real}/{key}".rstrip("/"):
            for entry in self._folder.items(key):
                yield from self._consider_listed(entry)

    def _list(self) -> Iterator[Item | Unlisted]:
        """Continue the current listing, or start one if the next listing is due."""
        if self._listing is None and time.monotonic() < self._next_listing:
            return
        try:
            if self._listing is None:
                self._listing = self._begin_listing()
            for _ in range(CHUNK):
                entry = next(self._listing, None)
                if entry is None:
                    self._end_listing()
                    return
                self._listed.add(hash(entry.key))
                if self._is_wanted(entry):
                    yield from self._consider_listed(entry)
                elif self._is_left_out(entry):
                    self._passed_over.add(entry.key)
        except StorageError as error:
            if not self._listings:
                raise
            logging.getLogger(__name__).warning("%s", error)
            self._close_listing()

    def _begin_listing(self) -> Iterator[Item | Unlisted]:
        if self._has_notifications and (self._changes is None or self._changes.have_ended):
            if self._changes:
                self._changes.close()
            self._changes = Changes(self._real, self._wake)
        self._feed = None if self._folder else self.store.feed()
        self._passed_over = LeftOut()
        return self.store.items()

    def _end_listing(self) -> None:
        """Drop the files that were not listed: they no longer exist."""
        for key in [key for key in self._known if hash(key) not in self._listed]:
            self._known.pop(key)
        self._listings += 1
        self.left_out = self._passed_over
        self._close_listing()
        if self._feed:
            self._next_listing = time.monotonic() + RELIST

    def _close_listing(self) -> None:
        self._listing = None
        self._listed.clear()
        self._next_listing = time.monotonic() + self._period

    def _consider_listed(self, entry: Item | Unlisted) -> Iterator[Item | Unlisted]:
        if not self._is_wanted(entry) or self._known.get(entry.key) == _version(entry):
            return
        if isinstance(entry, Unlisted) and (entry.is_folder or entry.failure.kind == "InvalidName"):
            yield from self._take(entry.key, entry, 0.0)
        elif entry.key.endswith("/"):  # this folder cannot be listed
            if os.path.isdir(f"{self._real}/{entry.key}"):
                yield from self._take(entry.key, entry, 0.0)
        elif self._folder or entry.key not in self._waiting:
            moment = entry.mtime_ns / 1e9 if isinstance(entry, Item) else 0.0
            yield from self._consider(entry.key, None if self._folder else (entry, moment))

    # Whether a file is complete

    def _find(self, key: str) -> tuple[Item | Unlisted, float] | None:
        if self._folder:
            return look(self._real, key, self._links)
        found = self.store.find(key)
        return (found, found.mtime_ns / 1e9) if found else None

    def _consider(
        self, key: str, found: tuple[Item | Unlisted, float] | None = None
    ) -> Iterator[Item | Unlisted]:
        """Yield a file if it is new and complete; otherwise schedule another check.

        Args:
            found: the file and the time of its last change; None to check it now.
        """
        try:
            found = found or self._find(key)
        except StorageError as error:
            logging.getLogger(__name__).warning("%s", error)
            self._schedule_check(key, self._period)
            return
        if found is None:
            self._waiting.pop(key, None)
            self._known.pop(key, None)
            self._tries.pop(key, None)
            return
        entry, moment = found
        yield from self._take(key, entry, moment)

    def _take(self, key: str, entry: Item | Unlisted, moment: float) -> Iterator[Item | Unlisted]:
        version = _version(entry)
        if self._known.get(key) == version:
            self._waiting.pop(key, None)
        elif key in self._out:
            if version != self._out[key].version:
                self._changed.add(key)
        elif isinstance(entry, Unlisted):
            self._waiting.pop(key, None)
            self._learn(key, version)
            self._idle_since = time.monotonic()
            yield entry
        elif self._has_settled(key, entry, version):
            was_busy = self._waiting.pop(key).was_busy if key in self._waiting else False
            came = time.time() if was_busy else max(self._began, moment + (QUIET if self._folder else 0.0))
            self._out[key] = InProgress(version, came)
            yield entry

    def _has_settled(self, key: str, item: Item, version: str) -> bool:
        if self.store.creates:
            return True  # an object is always complete
        now = time.monotonic()
        before = self._waiting.get(key)
        if before is None or before.version != version:
            before = Waiting(version, now)
        unchanged, age = now - before.since, time.time() - item.mtime_ns / 1e9 if item.mtime_ns else 0.0
        quiet = QUIET if self._is_sure else QUIET_UNSURE
        if self._is_sure and max(unchanged, age) >= quiet:
            is_busy = is_written_to(f"{self._real}/{key}")
            if is_busy is False:
                return True
            before = before._replace(was_busy=before.was_busy or bool(is_busy))
            quiet = unchanged + max(QUIET, unchanged / 2) if is_busy else QUIET_UNSURE
        if quiet == QUIET_UNSURE and (unchanged >= quiet or age >= TRUSTED_AGE):
            return True
        self._waiting[key] = before
        self._schedule_check(key, min(LONGEST, max(quiet - unchanged, QUIET / 2)))
        return False


def _version(entry: Item | Unlisted) -> str:
    return entry.fingerprint if isinstance(entry, Item) else entry.failure.message
