"""The summary of a run: its numbers, its exit code and its last line."""

from __future__ import annotations

from collections.abc import Iterator

from imageloom.model import Failure, Plain
from imageloom.records.losses import counted, files, without_copies

MOST_FAILURES = 100
"""Maximum number of failures in a summary; the ledger has all."""


def per_second(rate: float) -> str:
    """A rate as text, such as 789/s or 0.4/s."""
    return f"{rate:.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


class Summary(Plain, frozen=True):
    """The numbers of done, failed and skipped items of a run, its duration in seconds, and what was lost."""

    job: int
    """Number of the job in the ledger."""
    done: int
    """Number of items whose outputs were made."""
    failed: int
    """Number of items that have failed for good."""
    skipped: int
    """Number of items for which nothing had to be done."""
    seconds: float
    """Duration of the run."""
    interrupted: bool = False
    """Whether the run was stopped before its end."""
    lost: int = 0
    """Number of done files whose outputs lack something that the input has, other than a thumbnail."""
    dropped: dict[str, int] = {}  # noqa: RUF012 - msgspec copies it
    """How many of them lost each thing."""
    damaged: int = 0
    """Number of done files that are damaged."""
    incomplete: int = 0
    """Number of done files with missing pixels (--damage salvage)."""
    left_out: dict[str, int] = {}  # noqa: RUF012
    """Number of files in the source that were not processed, because no format has their suffix, by suffix."""
    unchanged: int = 0
    """Number of skipped items whose outputs an earlier run has made."""
    failures: dict[str, Failure] = {}  # noqa: RUF012
    """Why the first items failed, by key, at most `MOST_FAILURES`."""
    elsewhere: int = 0
    """Number of items that other shards process."""

    @property
    def total(self) -> int:
        """Number of items that have ended."""
        return self.done + self.failed + self.skipped

    @property
    def exit_code(self) -> int:
        """The exit code of `imageloom run`: 0 all done, 1 some failed, 3 no item, 130 interrupted."""
        if self.interrupted:
            return 130
        if self.total == 0 and not self.elsewhere:
            return 3
        return 1 if self.failed else 0

    def __str__(self) -> str:
        return self.text("done")

    def _repr_html_(self) -> str:
        """For notebooks: the line, and a table of the failures."""
        from html import escape  # a run does not need it

        rows = "".join(
            f"<tr><td>{escape(key)}<td>{escape(failure.kind)}<td>{escape(failure.message)}"
            for key, failure in self.failures.items()
        )
        table = f"<table><tr><th>item<th>failure<th>reason{rows}</table>" if rows else ""
        return f"<div>{escape(str(self))}{table}</div>"

    def text(self, done: str) -> str:
        """The summary as a line for users.

        Args:
            done: word for the finished items, such as "done".
        """
        if self.total and self.unchanged == self.total and not self.interrupted:
            which = f"all {self.total:,} are" if self.total > 1 else "1 of 1 is"
            numbers = f"{which} up to date, {self.seconds:.2f} s"
        else:
            skipped = f" ({self.skipped} skipped)" if self.skipped else ""
            of = "" if self.interrupted else f" of {self.total}"  # how many are left was not counted
            stopped = "interrupted: " if self.interrupted else ""
            rate = (self.done + self.failed) / self.seconds if self.seconds else 0.0
            numbers = (
                f"{stopped}{self.done}{of} {done}{skipped}, {self.failed} failed, "
                f"{self.seconds:.2f} s, {per_second(rate)}"
            )
        resume = ("repeat the command to go on",) if self.interrupted else ()
        return "; ".join((numbers, *self._losses(), *resume))

    def _losses(self) -> Iterator[str]:
        if self.lost:
            lost = counted(without_copies(self.dropped))
            yield f"{files(self.lost, 'lost something', 'lost something')}: {lost}"
        if complete := self.damaged - self.incomplete:
            yield files(complete, "is damaged but complete", "are damaged but complete")
        if self.incomplete:
            yield files(self.incomplete, "is damaged and lacks pixels", "are damaged and lack pixels")
        if number := sum(self.left_out.values()):
            yield f"{files(number, 'was left out', 'were left out')}: {counted(self.left_out)}"
