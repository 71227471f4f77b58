"""The summary of a run: its numbers, its exit code and its last line."""

from __future__ import annotations

from imageloom.model import Plain


class Summary(Plain, frozen=True):
    """The numbers of done, failed and skipped items of a run, and its duration in seconds."""

    job: int
    done: int
    failed: int
    skipped: int
    seconds: float
    interrupted: bool = False

    @property
    def total(self) -> int:
        return self.done + self.failed + self.skipped

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return 130
        if self.total == 0:
            return 3
        return 1 if self.failed else 0

    def __str__(self) -> str:
        return self.text("done")

    def text(self, done: str) -> str:
        """The summary as a line for users.

        Args:
            done: word for the finished items, such as "done".
        """
        skipped = f" ({self.skipped} skipped)" if self.skipped else ""
        rate = (self.done + self.failed) / self.seconds if self.seconds else 0.0
        stopped = "interrupted: " if self.interrupted else ""
        return (
            f"{stopped}{self.done} of {self.total} {done}{skipped}, {self.failed} failed, "
            f"{self.seconds:.2f} s, {rate:.0f}/s"
        )
