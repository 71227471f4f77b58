"""The type of a fuzz target."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import NamedTuple

from imageloom.errors import ImageloomError

MOST_BYTES = 64 << 10
"""Maximum size of an input."""
MOST_SECONDS = 2.0
"""Maximum processor time of one execution."""
MOST_MEMORY = 1 << 30
"""Maximum address space that executions may add to the process, in bytes."""


class Target(NamedTuple):
    """A function of bytes that raises only expected errors."""

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]]
    """Valid inputs."""
    folder: str = ""
    """The folder of its corpus, if several targets share one; empty for `name`."""
    expected: tuple[type[Exception], ...] = (ImageloomError,)
    words: tuple[bytes, ...] = ()
    """Parts of valid inputs, which mutations insert."""
    repair: Callable[[bytes], bytes] = bytes
    """Corrects the checksums of a changed input."""
    change: Callable[[bytes, Random], bytes] | None = None
    """A mutation of the parsed input; None if there are only mutations of bytes."""

    @property
    def corpus(self) -> str:
        """The name of the folder of its corpus."""
        return self.folder or self.name

    def execute(self, data: bytes) -> bool:
        """Run the function on an input. Returns whether it was accepted.

        Raises:
            Exception: an error that is not expected.
        """
        try:
            self.run(data[:MOST_BYTES])
        except self.expected:
            return False
        return True
