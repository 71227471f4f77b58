"""Plans one item for the driver: what is to be done, its memory, and the claims on its output names."""

from __future__ import annotations

import itertools

from imageloom.driver.accounts import Accounts
from imageloom.driver.batches import Ready
from imageloom.driver.lookahead import Answers
from imageloom.driver.sink import Sink
from imageloom.driver.suspects import Suspects
from imageloom.engines import Engine
from imageloom.errors import LimitExceeded
from imageloom.model import Item, Job, Work
from imageloom.recipes import plan
from imageloom.recipes.meaning import Meanings
from imageloom.records.events import Planned
from imageloom.system.machine import half_of_memory


class Planner:
    """Plans the items of one run. Items that need nothing are recorded as skipped."""

    def __init__(
        self,
        job: Job,
        engine: Engine,
        sink: Sink,
        meanings: Meanings,
        suspects: Suspects,
        accounts: Accounts,
    ) -> None:
        self._job, self._engine, self._sink, self._meanings = job, engine, sink, meanings
        self._suspects, self._accounts = suspects, accounts
        self._memory = job.memory or half_of_memory()
        self._numbers = itertools.count(1)

    def plan(self, run: int, item: Item, answers: Answers | None, is_alone: bool) -> Ready | None:
        """The planned item, with claims on its outputs; None if there is nothing to do.

        Args:
            run: the job's number in the ledger.
            answers: what the stores know of it; None if its outputs exist already.
            is_alone: no other image is waiting to be planned.

        Raises:
            ItemError: the item cannot be processed.
        """
        if answers is None:
            self._suspects.record_outcome(item, None)
            self._accounts.skip(item, "done before")
            return None
        limits, recipe = self._job.limits, self._job.recipe
        header, names, taken = answers
        plan.check_limits(header, limits, item.size)
        planned = plan.make_plan(header, recipe)
        needs, what, capacity = planned.bytes + item.size, "it", self._engine.capacity
        tiled = plan.why_tiled(self._job, header, planned, needs, self._memory, capacity, is_alone)
        if self._suspects.is_isolated(item) and needs <= self._memory:
            tiled = None
        if tiled:
            from imageloom.tiling.large import needs_of  # small images must not wait for it

            most = max(needs_of(header, planned, item.size).values(), key=lambda need: need.bytes)
            needs, what = most.bytes, most.what
        if needs > self._memory:
            raise LimitExceeded(
                f"{what} needs {needs:,} bytes of memory, over the limit of {self._memory:,} (--memory)"
            )
        may_replace = self._sink.claim(run, item, self._meanings.of(item.key), names, taken)
        if may_replace is None:
            self._accounts.skip(item, "output exists")
            return None
        if self._accounts.has_listeners:
            self._accounts.emit(Planned(item, names))
        work = Work(item, names, next(self._numbers), 1, header, may_replace)
        return Ready(work, header.frame.pixels, needs, plan=(header, planned) if tiled else None)
