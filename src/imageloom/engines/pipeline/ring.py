"""A ring: a bounded queue of chunks in shared memory, between the threads of one process and those of another.

The memory is a nameless file (memfd): the kernel frees it with the last process that has it open, so that
nothing can be left over, and it is not part of /dev/shm, whose size may be small. A ring has slots. Each has a
wide range of the file for its chunk, of which pages are taken as far as the chunk goes, so that a chunk of any
size finds room; `budget` bounds what all chunks together may take, but for one that is alone.

A slot is free, being written, full, or being read, and goes around in that order. It is one word in the file,
and one store changes it:

    free --claim--> writing --put--> full --take--> reading --release--> free

Two things keep the threads and processes in order, and both survive a kill -9 at any moment:

- The lock is a record lock of the file (fcntl) and beside it a lock of this process's threads. The kernel drops
  a record lock with its process. What the holder had changed by then is whole, because of the single store.
- The semaphores are eventfds, one that is posted when a slot has become full, one when a slot has become free.
  Only the reading process waits for the first, and only the writing one for the second, one thread at a time,
  which looks at the slots, waits if there is nothing for it, and looks again. A count says no more than that a
  look may pay: one too many costs a look. One too few there cannot be, as each change is followed by its post,
  unless its process is killed in between; and after each death the supervisor posts all semaphores.

So after the death of the reading process the slots that are being read are what it had in hand: `recover`
frees them and says whose they are. After the death of the writing one those that are being written hold nothing.
Chunks in full slots wait for the next process.
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
"""The words of the order's next number, and of the threads that read."""
_FIRST = 8
"""The word at which the columns begin."""
_ALIGNED = 64
"""Arrays begin at multiples of so many bytes."""

SPAN = 8 << 30
"""Bytes that a chunk may have."""
KEPT = 4 << 20
"""Bytes of a slot whose pages stay for the next chunk."""
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h


class Taken(NamedTuple):
    """A chunk in a slot that is being read."""

    slot: int
    number: int
    about: bytes
    pixels: memoryview
    """All of its pixels, one array after the other; gone when the slot is released."""


class Ring:
    """One end of a ring. To send it to another process, make it an argument of that process.

    Args:
        slots: how many chunks it holds, at the most.
        budget: how many bytes they may have together; one alone may have more.

    Raises:
        StorageError: there is no shared memory to be had.
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
        """Let go of this end. Nobody may use it any more."""
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
        """The semaphore that is posted when a slot has become free: to be waited for with others."""
        return self._freed

    def put(self, number: int, about: bytes, arrays: Sequence[Pixels] = ()) -> None:
        """Put a chunk, as soon as there is room for it.

        Args:
            number: whose chunk it is; above 0.

        Raises:
            LimitExceeded: it is larger than a chunk can be.
            UnwritableOutput: the machine has no memory left for it.
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
                # Pages are taken now: where there are none it is an error here, and no SIGBUS later.
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
        """How many threads read, as they say."""
        return int(self._words[_READERS])

    @readers.setter
    def readers(self, count: int) -> None:
        self._words[_READERS] = count

    def take(self, waited: Callable[[float], None] | None = None) -> Taken:
        """Take the chunk that was put first, as soon as there is one. `release` its slot in the end.

        Args:
            waited: told for how many seconds there was none.
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
        """Note that a slot's reader is done but for its waiting for another: no time runs for it."""
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
        """The numbers of the chunks that are being read, and the seconds since when, by the monotonic clock.

        Those whose reader waits are held since infinity.
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
        """After a death: free the slots of that state, READING or WRITING, and name their chunks."""
        slots = self._in(state, self._state.tolist())
        numbers = [self._number[slot] for slot in slots]
        for slot in slots:
            self.release(slot)
        return numbers

    def post(self) -> None:
        """Post the semaphores: everyone looks again."""
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
    """The arrays of a chunk, where they lie: gone with the slot's release."""
    arrays, start = [], 0
    for frame in frames:
        shape = (frame.height, frame.width, frame.channels)[: 2 if frame.channels == 1 else 3]
        pixels: Pixels = np.frombuffer(data[start : start + frame.bytes], frame.dtype).reshape(shape)
        arrays.append(pixels)
        start += _aligned(frame.bytes)
    return tuple(arrays)


def _punch_hole(file: int, start: int, length: int) -> None:
    """Give pages back."""
    at, count = ctypes.c_int64(start), ctypes.c_int64(length)
    _libc().fallocate(file, _KEEP_SIZE | _PUNCH_HOLE, at, count)


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
