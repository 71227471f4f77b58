"""A ring: a bounded queue of chunks in shared memory, between the threads of one process and those of another.

The memory is an anonymous file (memfd). The kernel frees it when the last process closes it, so nothing is left
behind. It is not part of /dev/shm, which may be small. A ring has slots. Each slot has a large address range of
the file for its chunk, and memory pages are allocated only for the size of the chunk. So a chunk of any size fits.
`budget` limits the memory of all chunks together; a single chunk may exceed it.

The state of a slot is free, writing, full, or reading, and changes in this order. The state is one word in the
file, and is changed by a single store:

    free --claim--> writing --put--> full --take--> reading --release--> free

Two mechanisms synchronise the threads and processes. Both survive a kill -9 at any moment:

- The lock is a record lock of the file (fcntl), and a lock between the threads of this process. The kernel
  releases the record lock when its process ends. The state is then consistent, because each change is a single
  store.
- The semaphores are eventfds: one is posted when a slot becomes full, the other when a slot becomes free. Only the
  reading process waits for the first one, and only the writing process for the second one, one thread at a time.
  The thread checks the slots, waits if none is usable, and checks again. A count that is too high only costs one
  more check. A count is never too low: each change is followed by a post, and if a process is killed between the
  two, the supervisor posts all semaphores after the death.

After the death of the reading process, the slots in state reading are the chunks that it was processing: `recover`
frees them and returns their numbers. After the death of the writing process, the slots in state writing hold no
valid data. Chunks in full slots wait for the next process.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from multiprocessing.reduction import DupFd
from typing import Any, NamedTuple

import numpy as np

from imageloom.errors import LimitExceeded, StorageError, UnwritableOutput
from imageloom.model import Frame, Pixels

FREE, WRITING, FULL, READING = range(4)
_HEAD = 16384
_TICKETS, _READERS = 0, 1
"""Indexes of two words: the next order number, and the number of reading threads."""
_FIRST = 8
"""Index of the word at which the columns begin."""
_ALIGNED = 64
"""Alignment of arrays, in bytes."""

SPAN = 8 << 30
"""Maximum size of a chunk, in bytes."""
KEPT = 4 << 20
"""Bytes of a slot whose pages are kept for the next chunk."""
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h


class Taken(NamedTuple):
    """A chunk in a slot in state reading."""

    slot: int
    number: int
    about: bytes
    pixels: memoryview
    """All of its pixels, one array after the other. Invalid after the slot is released."""


class Ring:
    """One end of a ring. To pass it to another process, make it an argument of that process.

    Args:
        slots: maximum number of chunks.
        budget: maximum size of all chunks together, in bytes. A single chunk may be larger.

    Raises:
        StorageError: shared memory cannot be allocated.
    """

    def __init__(self, slots: int, budget: int) -> None:
        self.slots, self._budget = slots, budget
        try:
            self._file = os.memfd_create("imageloom")
            os.ftruncate(self._file, _HEAD + slots * SPAN)
            os.posix_fallocate(self._file, 0, _HEAD)
        except OSError as error:
            raise StorageError(f"cannot make shared memory for a ring: {error.strerror}") from None
        self._full, self._freed = os.eventfd(0), os.eventfd(0)
        self._open()

    def _open(self) -> None:
        self._map = mmap.mmap(self._file, 0)
        self._view = memoryview(self._map)
        self._words = self._view[:_HEAD].cast("q")
        columns = (self._words[_FIRST + n * self.slots : _FIRST + (n + 1) * self.slots] for n in range(7))
        self._state, self._number, self._order, self._since, self._size, self._about, self._pages = columns
        """A word for each slot: its state; its chunk's number, place in the order, time of being taken
        (nanoseconds of the monotonic clock; 0 while the reader waits for another), size and description's
        size; the bytes that it has pages for."""
        self._threads = threading.Lock()
        self._putting, self._taking = threading.Lock(), threading.Lock()

    def __getstate__(self) -> tuple[Any, ...]:
        return self.slots, self._budget, *map(DupFd, (self._file, self._full, self._freed))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.slots, self._budget, *files = state
        self._file, self._full, self._freed = (file.detach() for file in files)
        self._open()

    def close(self) -> None:
        """Close this end. It must not be used afterwards."""
        for view in (
            self._state,
            self._number,
            self._order,
            self._since,
            self._size,
            self._about,
            self._pages,
        ):
            view.release()
        self._words.release()
        self._view.release()
        self._map.close()
        for file in (self._file, self._full, self._freed):
            os.close(file)

    # The writing end

    @property
    def room(self) -> int:
        """File descriptor of the semaphore that is posted when a slot becomes free."""
        return self._freed

    def put(self, number: int, about: bytes, arrays: Sequence[Pixels] = ()) -> None:
        """Put a chunk. Blocks until there is room for it.

        Args:
            number: number of the chunk's delivery, above 0.

        Raises:
            LimitExceeded: it exceeds the maximum size of a chunk.
            UnwritableOutput: the machine does not have enough memory for it.
        """
        with self._putting:
            while (slot := self._claim(number, about, arrays)) is None:
                os.eventfd_read(self._freed)
        self._fill(slot, about, arrays)

    def try_put(self, number: int, about: bytes) -> bool:
        """Put a chunk without pixels, if there is room for it now."""
        slot = self._claim(number, about, ())
        if slot is None:
            return False
        self._fill(slot, about, ())
        return True

    def _claim(self, number: int, about: bytes, arrays: Sequence[Pixels]) -> int | None:
        size = _aligned(len(about)) + sum(_aligned(array.nbytes) for array in arrays)
        if size > SPAN:
            raise LimitExceeded(
                f"a chunk of {size:,} bytes is over the limit of {SPAN:,}: process the image "
                "in tiles (--tile always)"
            )
        with self._locked():
            states = self._state.tolist()
            if FREE not in states:
                return None
            used = sum(
                other for other, state in zip(self._size.tolist(), states, strict=True) if state != FREE
            )
            if used and used + size > self._budget:
                return None
            slot = states.index(FREE)
            self._number[slot], self._size[slot], self._about[slot] = number, size, len(about)
            self._order[slot] = self._words[_TICKETS]
            self._words[_TICKETS] += 1
            self._state[slot] = WRITING
            return slot

    def _fill(self, slot: int, about: bytes, arrays: Sequence[Pixels]) -> None:
        start, size = _HEAD + slot * SPAN, self._size[slot]
        try:
            if size > self._pages[slot]:
                # Allocate the pages now: a lack of memory is an error here, and not a SIGBUS later.
                os.posix_fallocate(self._file, start, size)
                self._pages[slot] = size
        except OSError as error:
            self.release(slot)
            raise UnwritableOutput(
                f"there is not enough shared memory for {size:,} bytes of pixels: {error.strerror}"
            ) from None
        self._view[start : start + len(about)] = about
        start += _aligned(len(about))
        for array in arrays:
            room = np.frombuffer(self._map, array.dtype, array.size, start)
            np.copyto(room.reshape(array.shape), array)
            start += _aligned(array.nbytes)
        with self._locked():
            self._state[slot] = FULL
        os.eventfd_write(self._full, 1)

    # The reading end

    @property
    def readers(self) -> int:
        """Number of threads that read, as set by the reading process."""
        return int(self._words[_READERS])

    @readers.setter
    def readers(self, count: int) -> None:
        self._words[_READERS] = count

    def take(self, waited: Callable[[float], None] | None = None) -> Taken:
        """Take the oldest chunk. Blocks until there is one. The caller must `release` its slot.

        Args:
            waited: called with the time in seconds for which there was no chunk.
        """
        began = time.monotonic()
        with self._taking:
            while (slot := self._first_full()) is None:
                os.eventfd_read(self._full)
        if waited:
            waited(time.monotonic() - began)
        start, end = _HEAD + slot * SPAN, self._about[slot]
        about = bytes(self._view[start : start + end])
        return Taken(
            slot,
            self._number[slot],
            about,
            self._view[start + _aligned(end) : start + self._size[slot]],
        )

    def _first_full(self) -> int | None:
        with self._locked():
            states = self._state.tolist()
            if FULL not in states:
                return None
            slot = min(self._in(FULL, states), key=self._order.__getitem__)
            self._since[slot] = time.monotonic_ns()
            self._state[slot] = READING
            return slot

    def _in(self, state: int, states: list[int]) -> list[int]:
        return [slot for slot, found in enumerate(states) if found == state]

    def wait_for_target(self, slot: int) -> None:
        """Note that the reader of a slot only waits for the next ring, so that its time-out does not run."""
        self._since[slot] = 0

    def release(self, slot: int) -> None:
        """Free a slot."""
        if self._pages[slot] > KEPT:
            self._pages[slot] = KEPT
            _punch_hole(self._file, _HEAD + slot * SPAN + KEPT, SPAN - KEPT)
        with self._locked():
            self._state[slot] = FREE
        os.eventfd_write(self._freed, 1)

    # The supervisor

    def held(self) -> dict[int, float]:
        """The numbers of the chunks that are being read, with the start time of each, in seconds of the monotonic
        clock.

        The start time is infinity if the reader only waits for the next ring.
        """
        with self._locked():
            reading = self._in(READING, self._state.tolist())
            return {self._number[slot]: self._since[slot] / 1e9 or float("inf") for slot in reading}

    def has(self) -> set[int]:
        """The numbers of the chunks that are full or being read."""
        with self._locked():
            states = self._state.tolist()
            return {self._number[slot] for slot in self._in(FULL, states) + self._in(READING, states)}

    def recover(self, state: int) -> list[int]:
        """After a death: free the slots in this state, READING or WRITING, and return the numbers of their
        chunks."""
        slots = self._in(state, self._state.tolist())
        numbers = [self._number[slot] for slot in slots]
        for slot in slots:
            self.release(slot)
        return numbers

    def post(self) -> None:
        """Post all semaphores, so that all waiting threads check the slots."""
        os.eventfd_write(self._full, 1)
        os.eventfd_write(self._freed, 1)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._threads:
            fcntl.lockf(self._file, fcntl.LOCK_EX, 1)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def arrays_of(data: memoryview, frames: Sequence[Frame]) -> tuple[Pixels, ...]:
    """The arrays of a chunk, without a copy. Invalid after the slot is released."""
    arrays, start = [], 0
    for frame in frames:
        shape = (frame.height, frame.width, frame.channels)[: 2 if frame.channels == 1 else 3]
        pixels: Pixels = np.frombuffer(data[start : start + frame.bytes], frame.dtype).reshape(shape)
        arrays.append(pixels)
        start += _aligned(frame.bytes)
    return tuple(arrays)


def _punch_hole(file: int, start: int, length: int) -> None:
    """Return pages of a file to the system."""
    at, count = ctypes.c_int64(start), ctypes.c_int64(length)
    _libc().fallocate(file, _KEEP_SIZE | _PUNCH_HOLE, at, count)


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
