"""Publication in rounds, so that outputs survive a power cut and few calls flush many of them.

A round has three steps, in this order:

1. Flush the sink: the content of the outputs that are staged, and the names that the round before has given.
2. Write the ledger, flushed: the items of the round before are done, and the names of this round are claimed.
3. Rename the staged outputs.

So a name never leads to content that is not on the disk, an output never has a name without a claim, and an item
is done only when content, claim and name are on the disk. A round flushes twice, however many outputs it has.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from imageloom.driver.clock import Clock
from imageloom.driver.sink import Sink
from imageloom.errors import StorageError
from imageloom.model import Plain, Result, Work
from imageloom.recipes.meaning import Meanings
from imageloom.records.faults import failure_of
from imageloom.records.ledger import Ledger

MOST = 64
"""Number of outputs after which a round takes place."""
LONGEST = 1.0
"""Maximum seconds that an output waits to be published and recorded. A kill loses the outputs that wait."""
LONGEST_FOLLOWED = 0.2
"""The same if somebody waits for each output."""


class Finished(Plain, frozen=True):
    """An item whose worker has finished it."""

    work: Work
    result: Result
    worker: str
    bytes: int
    """Memory that a retry needs."""


def left_out(one: Finished) -> tuple[str, ...]:
    """The names of the outputs that were left out, because they would not have been smaller than the input."""
    names, written = one.work.names, one.result.written
    if len(names) == len(written):
        return ()
    made = {output.name for output in written}
    return tuple(name for name in names if name not in made)


class Rounds:
    """The items that wait to be published, and those that wait to be recorded as done.

    Args:
        meanings: the texts that identify the recipe in the ledger.
        longest: maximum seconds that an output waits.
    """

    def __init__(self, sink: Sink, ledger: Ledger, meanings: Meanings, longest: float, clock: Clock) -> None:
        self._sink = sink
        self._ledger = ledger
        self._meanings = meanings
        self._longest = longest
        self._clock = clock
        self._staged: list[Finished] = []
        self._renamed: list[Finished] = []
        self._outputs = 0
        self._since = 0.0

    def __bool__(self) -> bool:
        """Whether any item waits."""
        return bool(self._staged or self._renamed)

    @property
    def is_full(self) -> bool:
        """Whether enough outputs wait for a round."""
        return self._outputs >= MOST

    @property
    def pause(self) -> float | None:
        """Seconds until the items that wait are due; None if no item waits."""
        if not self:
            return None
        return 0.0 if self.is_full else max(0.0, self._since + self._longest - self._clock.monotonic())

    def add(self, job: int, one: Finished) -> None:
        """Add an item whose outputs are staged.

        Raises:
            ItemError: its outputs cannot be published.
        """
        self._sink.prepare(job, one.work, self._meanings.of(one.work.item.key), one.result)
        if not self:
            self._since = self._clock.monotonic()
        self._staged.append(one)
        self._outputs += len(one.result.written)

    def turn(self, job: int) -> Iterator[Finished]:
        """Do one round. Yields the items that are done, and those that have failed, with the failure.

        Raises:
            StorageError: the ledger cannot be written.
        """
        staged, renamed = self._staged, self._renamed
        self._staged, self._renamed, self._outputs = [], [], 0
        self._since = self._clock.monotonic()
        try:
            self._sink.flush([one.result for one in staged], [one.result for one in renamed])
        except StorageError:
            raise
        except BaseException as error:
            for one in renamed:
                self._sink.note_named(one.result)
            for one in (*staged, *renamed):
                yield self._failed(one, error)
            return
        for one in renamed:
            times = self._sink.times_of(one.result)
            attempt, absent = one.work.attempt, left_out(one)
            self._ledger.record_done(job, self._sink.address, one.result, attempt, one.worker, times, absent)
        self._ledger.flush()
        for one in staged:
            try:
                self._sink.rename(one.work, one.result)
                self._renamed.append(one)
            except StorageError:
                raise
            except BaseException as error:
                yield self._failed(one, error)
        yield from renamed

    def _failed(self, one: Finished, error: BaseException) -> Finished:
        self._sink.discard(one.result)
        key, times, started = one.result.key, one.result.times, one.result.started
        return replace(one, result=Result(key, (), failure_of(key, error), times, started))
