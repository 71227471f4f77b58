"""Outputs that workers send, piece by piece, into the staging folder of a sink."""

from __future__ import annotations

import os
import re
import threading

from imageloom.errors import TaskRefused, unwritable
from imageloom.model import Task
from imageloom.stores.names import is_token
from imageloom.stores.staging import open_staging
from imageloom.system import folders

MOST_BYTES = 1 << 40
"""Maximum size of an output, in bytes."""
MOST_UPLOADS = 8
"""Maximum number of times that one output of an attempt is sent: a task may be sent to several workers."""

_ATTEMPT = re.compile(r"([0-9]+)-([0-9]+)-([0-9]+)-[0-9a-f]{12}-([0-9]+)")
"""A token of an output: job, item, attempt, and the number of the output."""


class Uploads:
    """The outputs that workers may send: those of the tasks in flight.

    Args:
        sink: path of the sink. Its staging folder exists while tasks are in flight.
    """

    def __init__(self, sink: str) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self._expected: dict[tuple[str, int, int], int] = {}
        """The number of outputs of each attempt in flight, by job, item and attempt."""
        self._begun: dict[str, int] = {}
        """The size of each output whose first piece has arrived, by token."""

    def expect(self, task: Task) -> None:
        """Accept the outputs of a task's items."""
        with self._lock:
            for work in task.work:
                self._expected[task.job, work.number, work.attempt] = len(work.names)

    def forget(self, task: Task) -> None:
        """Accept no further outputs of a task's items."""
        attempts = {(task.job, work.number, work.attempt) for work in task.work}
        with self._lock:
            for attempt in attempts:
                self._expected.pop(attempt, None)
            self._begun = {
                token: size for token, size in self._begun.items() if _attempt(token)[:3] not in attempts
            }

    def write(self, token: str, at: int, total: int, data: bytes) -> None:
        """Write a piece of an output. A piece may be sent again.

        Args:
            at: position of the piece in the output, in bytes.
            total: size of the whole output, in bytes.

        Raises:
            TaskRefused: no such output is expected, or the piece does not fit into it.
            UnwritableOutput: it cannot be written.
        """
        if not 0 <= at <= at + len(data) <= total <= MOST_BYTES:
            raise TaskRefused(f"a piece of {len(data)} bytes at {at} is not in an output of {total} bytes")
        is_new = self._admit(token, at, total)
        try:
            staging = open_staging(self._sink)
            try:
                file = folders.make_file(token, staging) if is_new else folders.open_to_write(token, staging)
            finally:
                os.close(staging)
            try:
                written = os.pwrite(file, data, at)
                while written < len(data):
                    written += os.pwrite(file, memoryview(data)[written:], at + written)
            finally:
                os.close(file)
        except OSError as error:
            raise unwritable(f"cannot write to {self._sink}", error) from None

    def _admit(self, token: str, at: int, total: int) -> bool:
        """Check that an output is expected. Returns whether this is its first piece."""
        with self._lock:
            attempt = self._check(token)
            size = self._begun.get(token)
            if size is None and at:
                raise TaskRefused(f"the first piece of {token} was not sent")
            if size is not None and size != total:
                raise TaskRefused(f"the output {token} has {size} bytes, not {total}")
            if size is None and sum(_attempt(one) == attempt for one in self._begun) >= MOST_UPLOADS:
                raise TaskRefused(f"the output {token} was sent too often")
            self._begun[token] = total
            return size is None

    def _check(self, token: str) -> tuple[str, int, int, int]:
        attempt = _attempt(token)
        if attempt[3] >= self._expected.get(attempt[:3], 0):
            raise TaskRefused(
                f"no output {token[:80]} is expected: the task has ended, or is not one of this run"
            )
        return attempt

    def discard(self, token: str) -> None:
        """Remove an output that was sent.

        Raises:
            TaskRefused: no such output is expected.
        """
        with self._lock:
            self._check(token)
            self._begun.pop(token, None)
        try:
            staging = open_staging(self._sink)
        except OSError:
            return
        try:
            folders.remove(token, staging)
        finally:
            os.close(staging)


def _attempt(token: str) -> tuple[str, int, int, int]:
    """Job, item, attempt and number of the output of a token.

    Raises:
        TaskRefused: it is not the token of an output.
    """
    found = _ATTEMPT.fullmatch(token) if len(token) < 128 and is_token(token) else None
    if found is None:
        raise TaskRefused("this is not the token of an output")
    job, item, attempt, output = found.groups()
    return job, int(item), int(attempt), int(output)
