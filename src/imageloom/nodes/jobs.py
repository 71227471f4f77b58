"""The jobs of a server: each is written down before it is accepted, and run by a driver of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from pathlib import Path

from google.protobuf import json_format

from imageloom.engines import Engine
from imageloom.errors import ImageloomError, StorageError
from imageloom.events import Began, Done, Event, Failed, Skipped
from imageloom.ledger import Ledger
from imageloom.model import Job
from imageloom.nodes import imageloom_pb2 as pb
from imageloom.nodes.messages import to_item_receipt, to_job
from imageloom.run import Driver
from imageloom.source import Source
from imageloom.summary import Summary

MOST_UNSENT = 10_000
"""Receipts of items that wait for a client that is slow to take them; older ones it never sees."""
MOST_KEPT = 1_000
"""Jobs that are over and can still be asked for."""

log = logging.getLogger(__name__)


class JobFiles:
    """What survives the server: a file for each job, with its request, then with its last receipt.

    Raises:
        StorageError: the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keeping = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageError(f"cannot use the folder {folder} (--state): {error.strerror}") from None

    def unfinished(self) -> list[pb.JobRequest]:
        """The jobs that are to be gone on with, the oldest first."""
        paths = sorted(self._folder.glob("*.request"), key=lambda path: path.stat().st_mtime)
        return [json_format.Parse(path.read_text(), pb.JobRequest(), True) for path in paths]

    def receipt(self, id: str) -> pb.JobReceipt | None:
        """What came of a job that is over."""
        try:
            text = (self._folder / f"{id}.receipt").read_text()
        except FileNotFoundError:
            return None
        return json_format.Parse(text, pb.JobReceipt(), True)

    def accept(self, request: pb.JobRequest) -> None:
        """Write a request down; it is on the disk when this returns."""
        self._write(f"{request.id}.request", json_format.MessageToJson(request))

    def finish(self, receipt: pb.JobReceipt) -> None:
        self._write(f"{receipt.id}.receipt", json_format.MessageToJson(receipt))
        self.forget(receipt.id)
        with self._keeping:
            kept = sorted(self._folder.glob("*.receipt"), key=lambda path: path.stat().st_mtime)
            for path in kept[:-MOST_KEPT]:
                path.unlink(missing_ok=True)

    def forget(self, id: str) -> None:
        (self._folder / f"{id}.request").unlink(missing_ok=True)

    def _write(self, name: str, text: str) -> None:
        path, beside = self._folder / name, self._folder / f"{name}.part"
        try:
            with open(beside, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise StorageError(f"cannot write {path} (--state): {error.strerror}") from None


class Follower:
    """What a client that follows a job has not been told yet."""

    def __init__(self) -> None:
        self.unsent: deque[pb.ItemReceipt] = deque(maxlen=MOST_UNSENT)


class RunningJob:
    """A job with its driver's thread.

    Args:
        request: as it was written down.
        job: what it means.
    """

    def __init__(self, request: pb.JobRequest, job: Job) -> None:
        self.id, self.detached = request.id, request.detached
        self.job = job
        self.change = threading.Condition()
        self.followers: set[Follower] = set()
        self.left_at = time.monotonic()
        """When the last follower went, by the monotonic clock."""
        self.error: ImageloomError | None = None
        self.has_begun = self.is_over = self.is_paused = False
        self._cancelled = ""
        self._driver: Driver | None = None
        self._began = time.monotonic()
        self._receipt = pb.JobReceipt(id=request.id)

    def start(
        self, engine: Engine, ledger: Path | None, files: JobFiles, roots: tuple[str, ...] = ()
    ) -> None:
        """Begin it.

        Args:
            roots: folders beneath which its source lies; none for no bounds.
        """
        args = (engine, ledger, files, roots)
        run = threading.Thread(target=self._run, args=args, name=f"job-{self.id}")
        run.start()

    def cancel(self, why: str) -> None:
        """Finish what is in hand and begin nothing more."""
        with self.change:
            self._cancelled = self._cancelled or why
        self._stop()

    def pause(self) -> None:
        """As `cancel`, but the job goes on when the server is there again."""
        self.is_paused = True
        self._stop()

    def _stop(self) -> None:
        if self._driver:
            self._driver.stop()

    def receipt(self, items: list[pb.ItemReceipt] | None = None) -> pb.JobReceipt:
        """How the job is now, with what has happened to those items."""
        with self.change:
            receipt = pb.JobReceipt()
            receipt.CopyFrom(self._receipt)
        if not self.is_over:
            receipt.seconds = time.monotonic() - self._began
        receipt.items.extend(items or ())
        return receipt

    def follow(self) -> Follower:
        follower = Follower()
        with self.change:
            self.followers.add(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        with self.change:
            self.followers.discard(follower)
            self.left_at = time.monotonic()

    # The driver's thread

    def _run(self, engine: Engine, ledger: Path | None, files: JobFiles, roots: tuple[str, ...]) -> None:
        job = self.job
        try:
            with Ledger(ledger) as book:
                source = Source(job.source, job.include, job.exclude, job.links, roots)
                self._driver = Driver(job, engine, book, "nodes", [self._hear], source)
                if self._cancelled or self.is_paused:
                    self._driver.stop()
                self._end(self._driver.run(), files)
        except ImageloomError as error:
            self._fail(error, files)
        except Exception as error:
            log.exception("job %s", self.id)
            self._fail(ImageloomError(f"the server failed: {type(error).__name__}: {error}"), files)

    def _hear(self, event: Event) -> None:
        receipt = to_item_receipt(event)
        with self.change:
            match event:
                case Began(number):
                    self._receipt.job, self.has_begun = number, True
                case Done():
                    self._receipt.done += 1
                case Failed():
                    self._receipt.failed += 1
                case Skipped():
                    self._receipt.skipped += 1
            if receipt:
                for follower in self.followers:
                    follower.unsent.append(receipt)
            self.change.notify_all()

    def _end(self, summary: Summary, files: JobFiles) -> None:
        status, message = pb.JOB_SUCCESS, ""
        if summary.interrupted and self.is_paused and not self._cancelled:
            self._close()
            return
        if summary.interrupted:
            status, message = pb.JOB_CANCELLED, self._cancelled
        elif summary.failed:
            status, message = pb.JOB_FAILURE, f"{summary.failed} items failed"
        elif not summary.total:
            message = "no image matched in the source"
        with self.change:
            self._receipt.MergeFrom(
                pb.JobReceipt(
                    status=status,
                    message=message,
                    exit_code=summary.exit_code,
                    seconds=time.monotonic() - self._began,
                )
            )
        self._close(files)

    def _fail(self, error: ImageloomError, files: JobFiles) -> None:
        with self.change:
            self.error = error
            self._receipt.status, self._receipt.message = pb.JOB_FAILURE, str(error)
            self._receipt.exit_code = error.exit_code
            self._receipt.seconds = time.monotonic() - self._began
        self._close(files)

    def _close(self, files: JobFiles | None = None) -> None:
        if files:
            with contextlib.suppress(StorageError):  # it is done again after a restart: nothing is lost
                files.finish(self._receipt)
        with self.change:
            self.is_over = True
            self.change.notify_all()


def resumed(files: JobFiles) -> list[RunningJob]:
    """The jobs that a server before this one had accepted and not finished."""
    found = []
    for request in files.unfinished():
        try:
            found.append(RunningJob(request, to_job(request)))
        except ImageloomError as error:  # its pipeline is of a file of operators that is not loaded any more
            files.finish(
                pb.JobReceipt(
                    id=request.id, status=pb.JOB_FAILURE, message=str(error), exit_code=error.exit_code
                )
            )
    return found
