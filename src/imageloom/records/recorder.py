"""Records the timeline of a run: a listener, and a thread that measures the machine periodically.

Records are written in frames, at least every half second. So a kill loses at most half a second.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import time
from pathlib import Path

import msgspec

from imageloom.model import Job, Result
from imageloom.records.events import Began, Collected, Done, Event, Failed, Listener, Retried, Started
from imageloom.records.timeline import (
    ASSEMBLED,
    DONE,
    FAILED,
    PART,
    RETRIED,
    VERSION,
    WHOLE,
    Attempt,
    Closing,
    Measurement,
    Opening,
    Record,
    Worker,
    folder_of,
    path_of,
    prune,
)
from imageloom.system import descriptors, machine
from imageloom.system.private import private_folder

SHORTEST = 1.0
"""Seconds after the start of a run before the first measurement."""
PERIOD = 0.5
"""Seconds between two measurements of the machine."""
MEMORY_TURNS = 8
"""Number of measurements after which the processes are listed, and their proportional memory is measured."""
MOST_HELD = 2000
"""Maximum number of records that wait for the next frame."""


class Recorder:
    """A listener that records the timeline of one run. A write error ends the recording, but not the run.

    Args:
        ledger: path of the ledger; the timeline is stored beside it.
        job: the job of the run.
        engine: name of the engine.
        workers: number of workers at the start.
        wanted: whether to record anything.
    """

    def __init__(self, ledger: Path, job: Job, engine: str, workers: int, wanted: bool = True) -> None:
        self.listeners: tuple[Listener, ...] = (self,) if wanted else ()
        self._ledger = ledger
        self._job = job
        self._engine = engine
        self._workers_planned = workers
        self._file = -1
        self._began = 0.0
        self._records: list[Record] = []
        self._workers: dict[str, int] = {}
        self._submitted: dict[int, int] = {}
        self._since = -1
        self._collected = self._last = 0
        self._current: Collected | None = None
        self._sizes: dict[str, int] = {}
        self._in_parts: set[str] = set()
        self._writing = threading.Lock()
        self._over = threading.Event()
        self._sampler: threading.Thread | None = None

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        kind = type(event)
        if kind is Done:
            self._ended(event, DONE)  # type: ignore[arg-type]
        elif kind is Started:
            self._submitted[event.task] = self._now()  # type: ignore[union-attr, index]
        elif kind is Collected:
            self._take(event)  # type: ignore[arg-type]
        elif kind is Retried:
            self._ended(event, RETRIED)  # type: ignore[arg-type]
        elif kind is Failed:
            self._ended(event, FAILED)  # type: ignore[arg-type]
        elif kind is Began:
            self._open(event.job)  # type: ignore[union-attr]

    def _now(self) -> int:
        return int((time.time() - self._began) * 1e6)

    def _open(self, job: int) -> None:
        self._began = time.time()
        path = path_of(self._ledger, job)
        system = f"{sys.platform} {os.uname().machine}"
        self._records.append(
            Opening(
                VERSION,
                job,
                os.getpid(),
                self._began,
                self._engine,
                self._workers_planned,
                machine.available_cores(),
                system,
                self._job,
            )
        )
        try:
            private_folder(path.parent)
            self._file = descriptors.open_file(
                path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600
            )
        except OSError as error:
            self._give_up(error)
        self._flush()
        sampler = threading.Thread(target=self._sample, name="sampler", daemon=True)
        sampler.start()
        self._sampler = sampler

    def _take(self, event: Collected) -> None:
        task = event.task
        self._current = event
        self._since = self._submitted.get(task.id, -1)
        if event.is_last:
            self._submitted.pop(task.id, None)
        self._collected = self._last = self._now()
        for work in task.work:
            self._sizes[work.item.key] = work.item.size
        if task.part is not None:
            result = event.outcome.results[0]
            self._in_parts.add(result.key)
            if result.failure is None:
                self._add_part(event, DONE)

    def _ended(self, event: Done | Retried | Failed, outcome: int) -> None:
        current = self._current
        if current and current.task.part and current.task.work[0].item.key == event.result.key:
            if outcome == RETRIED:
                self._add_part(current, RETRIED)
                return
            if outcome == FAILED and current.outcome.results[0].failure:
                self._add_part(current, FAILED)
        key = event.result.key
        made_at = ASSEMBLED if key in self._in_parts else WHOLE
        self._add(event.result, event.worker, event.attempt, outcome, made_at)
        if outcome != RETRIED:
            self._sizes.pop(key, None)
            self._in_parts.discard(key)

    def _add_part(self, event: Collected, outcome: int) -> None:
        part, result = event.task.part, event.outcome.results[0]
        assert part is not None
        worker = result.worker or event.outcome.worker
        label = f"{part.output}.{part.phase}.{part.number}"
        self._add(result, worker, event.task.work[0].attempt, outcome, PART, label)

    def _add(
        self, result: Result, worker: str, number: int, outcome: int, made_at: int, part: str = ""
    ) -> None:
        now = self._now()
        times, failure = result.times, result.failure
        self._records.append(
            Attempt(
                result.key,
                self._number(worker),
                number,
                made_at,
                outcome,
                self._since if made_at != ASSEMBLED else -1,
                int((result.started - self._began) * 1e6) if result.started else self._collected,
                int(times.read * 1e6 + 0.5),
                int(times.decode * 1e6 + 0.5),
                int(times.filter * 1e6 + 0.5),
                int(times.encode * 1e6 + 0.5),
                int(times.write * 1e6 + 0.5),
                int(result.lost * 1e6 + 0.5),
                self._collected,
                now - self._last,
                self._sizes.get(result.key, 0),
                sum([written.size for written in result.written]),
                result.pixels,
                failure.kind if failure else "",
                failure.message if failure else "",
                part,
            )
        )
        self._last = now
        if len(self._records) > MOST_HELD:
            self._flush()

    def _number(self, worker: str) -> int:
        if worker not in self._workers:
            self._workers[worker] = len(self._workers)
            self._records.append(Worker(worker))
        return self._workers[worker]

    # The file

    def _flush(self) -> None:
        """Write the waiting records in one frame."""
        with self._writing:
            records = self._records[:]
            del self._records[: len(records)]  # the other thread may have added records meanwhile
            if not records or self._file < 0:
                return
            frame = msgspec.msgpack.encode(records)
            frame = len(frame).to_bytes(4, "big") + frame
            try:
                if os.write(self._file, frame) < len(frame):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        logging.getLogger(__name__).warning(
            "the timeline for `imageloom report` is not recorded: %s", error.strerror or error
        )
        self._close_file()

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def close(self) -> None:
        """Write the remaining records, and delete old timelines."""
        self._over.set()
        if self._sampler is None:
            return
        self._sampler.join()
        self._sampler = None
        self._records.append(Closing(self._now(), _versions()))
        self._flush()
        with self._writing:
            self._close_file()
        prune(folder_of(self._ledger))

    # The sampler's thread

    def _sample(self) -> None:
        """Measure the machine periodically. Runs shorter than a second are not measured."""
        before = machine.core_times()
        own, turn = os.getpid(), 0
        processes = machine.process_tree(own)
        spent_before = sum(machine.process_usage(process)[0] for process in processes)
        pause = SHORTEST
        while not self._over.wait(pause):
            pause = PERIOD
            now = machine.core_times()
            measure = turn % MEMORY_TURNS == 0
            if measure:
                processes = machine.process_tree(own)
            turn += 1
            used = [machine.process_usage(process) for process in processes]
            self._records.append(
                Measurement(
                    self._now(),
                    _percent(before, now),
                    max(0.0, sum(seconds for seconds, _ in used) - spent_before),
                    sum(resident for _, resident in used),
                    sum(map(machine.proportional_memory, processes)) if measure else 0,
                )
            )
            before = now
            self._flush()


def _percent(before: list[tuple[int, int]], now: list[tuple[int, int]]) -> bytes:
    """The load of each core between two measurements, in percent."""
    found = []
    for (busy0, all0), (busy1, all1) in zip(before, now, strict=False):
        found.append(min(100, max(0, round(100 * (busy1 - busy0) / max(1, all1 - all0)))))
    return bytes(found)


def _versions() -> dict[str, str]:
    """The versions of imageloom, Python, and the libraries that are loaded in this process."""
    from imageloom import __version__  # the package itself requires everything

    found = {"imageloom": __version__, "python": sys.version.partition(" ")[0]}
    for name in ("cv2", "numpy", "simplejpeg", "PIL", "imagecodecs", "pyvips"):
        if name in sys.modules and (version := getattr(sys.modules[name], "__version__", None)):
            found[name] = str(version)
    return found
