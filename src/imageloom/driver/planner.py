"""From the source's items to planned and claimed ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from imageloom.driver.accounts import Accounts
from imageloom.driver.batches import Ready
from imageloom.driver.lookahead import Answers, Lookahead, with_next
from imageloom.driver.sink import Sink
from imageloom.driver.source import Source
from imageloom.driver.suspects import Suspects
from imageloom.engines import Engine
from imageloom.errors import LimitExceeded, StorageError, UsageError
from imageloom.model import Item, Job, Unlisted, Work
from imageloom.recipes import parting, plan
from imageloom.recipes.meaning import Meanings
from imageloom.records.events import Planned
from imageloom.records.inprogress import InProgress
from imageloom.records.ledger import Ledger

UNREACHABLE = "tiles need a folder that all workers reach, and the sink is no folder: give one with --scratch"
"""Why an image is processed as a whole, if workers that the run did not start cannot reach its scratch folder."""


class Planner:
    """Plans the items of one run.

    Args:
        meanings: the texts that identify the recipe in the ledger.
        memory: memory of the run, in bytes.
    """

    def __init__(
        self,
        job: Job,
        engine: Engine,
        source: Source,
        sink: Sink,
        ledger: Ledger,
        meanings: Meanings,
        memory: int,
        lookahead: Lookahead,
        in_progress: InProgress,
        suspects: Suspects,
        accounts: Accounts,
    ) -> None:
        self._job = job
        self._engine = engine
        self._source = source
        self._sink = sink
        self._ledger = ledger
        self._meanings = meanings
        self._memory = memory
        self._lookahead = lookahead
        self._in_progress = in_progress
        self._suspects = suspects
        self._accounts = accounts
        self._is_last = False
        """No other item is waiting behind the item that is being planned."""
        self._numbers = itertools.count(1)

    def ready(self, wake: Callable[[], None]) -> Iterator[Ready | None]:
        """Yield the items to process, with their plans, until the run ends. Other items are recorded as skipped or
        failed. None means: no item at the moment.

        Args:
            wake: see `Source.entries`.
        """
        failed_before = (
            self._ledger.failed_before(self._source.root, self._sink.address)
            if self._job.retry_failed
            else None
        )
        for (entry, answers), is_last in with_next(self._lookahead.entries(wake)):
            self._is_last = is_last
            if self._accounts.is_ending:
                return
            if entry is None:
                yield None
                continue
            if failed_before is not None and entry.key not in failed_before:
                if isinstance(entry, Item):
                    self._accounts.skip(entry, "not failed before")
                continue
            if isinstance(entry, Unlisted):
                self._accounts.fail_unlisted(entry)
                continue
            try:
                ready = self._plan(entry, answers())
            except StorageError:
                raise
            except BaseException as error:  # an error of one item must not affect the others
                if not self._accounts.is_outdated(entry, True):
                    self._accounts.fail_here(entry, error)
                ready = None
            if ready is not None:
                yield ready
            if ready is None or ready.plan:
                self._lookahead.drop(entry)

    def _plan(self, item: Item, answers: Answers | None) -> Ready | None:
        if answers is None:
            self._suspects.record_outcome(item, None)
            self._accounts.skip(item, "done before")
            return None
        limits, recipe = self._job.limits, self._job.recipe
        header, names, taken = answers
        plan.check_limits(header, limits, item.size)
        planned = plan.make_plan(header, recipe)
        if not planned.outputs:
            self._accounts.end_without_outputs(item)
            return None
        hashed = self._lookahead.names.hashed
        needs, what, capacity = planned.bytes + item.size, "it", self._engine.capacity
        tiled = parting.why_tiled(self._job, header, planned, needs, self._memory, capacity, self._is_alone)
        unreachable = self._sink.scratch_is_here and self._engine.has_others
        if tiled and unreachable:
            if self._job.tile == "always":
                raise UsageError(f"--tile always: {UNREACHABLE}")
            tiled = None
        if self._in_progress.has_suspects and self._suspects.is_isolated(item) and needs <= self._memory:
            tiled = None
        if hashed:  # the digest is that of a whole file
            tiled = None
        if tiled:
            from imageloom.tiling.large import needs_of  # small images must not wait for it

            most = max(needs_of(header, planned, item.size).values(), key=lambda need: need.bytes)
            needs, what = most.bytes, most.what
        if needs > self._memory:
            why = f"; it is not processed in tiles: {UNREACHABLE}" if unreachable else ""
            raise LimitExceeded(
                f"{what} needs {needs:,} bytes of memory, over the limit of {self._memory:,} (--memory){why}"
            )
        meaning = self._meanings.of(item.key)
        may_replace = hashed or self._sink.claim(self._accounts.job, item, meaning, names, taken)
        if may_replace is None:
            self._accounts.skip(item, "output exists")
            return None
        if self._accounts.has_listeners:
            self._accounts.emit(Planned(item, names))
        work = Work(item, names, next(self._numbers), 1, header, may_replace, hashed)
        return Ready(work, header.frame.pixels, needs, plan=(header, planned) if tiled else None)

    @property
    def _is_alone(self) -> bool:
        """Whether no other image is waiting to be planned."""
        return self._is_last or self._job.items_at_once == 1
