"""The jobs of a server. Each job is saved before it is accepted, and has its own driver."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from google.protobuf import json_format

from imageloom.driver.run import Driver
from imageloom.driver.source import Source
from imageloom.engines import Engine
from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.errors import ImageloomError, StorageError, UsageError
from imageloom.model import Job, Result
from imageloom.records.events import Began, Done, Event, Failed, Skipped
from imageloom.records.ledger import Ledger
from imageloom.records.losses import Losses
from imageloom.records.summary import Summary
from imageloom.service.messages import to_item_receipt, to_job
from imageloom.system import disk
from imageloom.system.private import private_folder

MOST_UNSENT = 10_000
"""Maximum number of receipts that wait for a slow client. Older ones are dropped."""
MOST_KEPT = 1_000
"""Number of finished jobs that clients can still query."""

log = logging.getLogger(__name__)


def check_id(id: str) -> None:
    """Check that an id can be used as a file name.

    Raises:
        UsageError: it cannot. The message has the format of an id.
    """
    if not re.fullmatch(r"[0-9A-Za-z-]{1,64}", id):
        raise UsageError("the id of a job is 1 to 64 letters, digits and hyphens")


class JobFiles:
    """The files that persist when the server ends: one file for each job, with its request, and later its last
    receipt.

    Each id is checked before it is used.

    Raises:
        StorageError: the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keeping = threading.Lock()
        try:
            private_folder(folder)
            disk.flush_names(os.path.abspath(folder))
        except OSError as error:
            raise StorageError(
                f"cannot use the folder {folder} (--state): {error.strerror or error}"
            ) from None

    def unfinished(self) -> list[pb.JobRequest]:
        """The jobs to resume, the oldest first."""
        found = []
        for path in sorted(self._folder.glob("*.request"), key=lambda path: path.stat().st_mtime):
            try:
                request = json_format.Parse(path.read_text(), pb.JobRequest(), True)
                check_id(request.id)
            except (json_format.ParseError, ValueError, OSError) as error:
                log.error("ignored %s, which is not the request of a job: %s", path, error)
                continue
            if (self._folder / f"{request.id}.receipt").exists():  # a power cut has brought the request back
                self.forget(request.id)
                continue
            found.append(request)
        return found

    def receipt(self, id: str) -> pb.JobReceipt | None:
        """The last receipt of a finished job; None if it is not known.

        Raises:
            UsageError: the id is invalid.
        """
        check_id(id)
        try:
            text = (self._folder / f"{id}.receipt").read_text()
        except FileNotFoundError:
            return None
        return json_format.Parse(text, pb.JobReceipt(), True)

    def accept(self, request: pb.JobRequest) -> None:
        """Save a request. It is on the disk when this method returns."""
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
            with open(beside, "w", encoding="utf-8", opener=_for_this_user) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                disk.flush_folder(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise StorageError(f"cannot write {path} (--state): {error.strerror}") from None


def _for_this_user(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class Follower:
    """The receipts that a following client has not received yet."""

    def __init__(self) -> None:
        self.unsent: deque[pb.ItemReceipt] = deque(maxlen=MOST_UNSENT)


class RunningJob:
    """A job with its driver's thread.

    Args:
        request: the saved request.
        job: the job of the request.
        client: host of the client; empty for a job that was resumed.
    """

    def __init__(self, request: pb.JobRequest, job: Job, client: str = "") -> None:
        self.id, self.detached, self.client = request.id, request.detached, client
        self.job = job
        self.change = threading.Condition()
        self.followers: set[Follower] = set()
        self.left_at = time.monotonic()
        """Time at which the last follower left, in seconds of the monotonic clock."""
        self.error: ImageloomError | None = None
        self.waits = False
        """Whether it waits for other jobs."""
        self.has_begun = self.is_over = self.is_paused = False
        self._cancelled = ""
        self._driver: Driver | None = None
        self._began = time.monotonic()
        self._receipt = pb.JobReceipt(id=request.id)
        self._losses = Losses()

    def start(
        self,
        engine: Engine,
        ledger: Path | None,
        files: JobFiles,
        ended: Callable[[RunningJob], None],
        roots: tuple[str, ...] = (),
    ) -> None:
        """Run the job in its own thread, which calls `ended` at its end.

        Args:
            roots: folders that must contain its source; empty for no limit.
        """

        def run() -> None:
            self._run(engine, ledger, files, roots)
            ended(self)

        threading.Thread(target=run, name=f"job-{self.id}").start()

    def cancel(self, why: str) -> None:
        """Cancel the job. Its items in progress are finished."""
        with self.change:
            self._cancelled = self._cancelled or why
        self._stop()

    def pause(self) -> None:
        """Like `cancel`, but the job resumes when the server restarts."""
        self.is_paused = True
        self._stop()

    def drop(self, why: str, files: JobFiles) -> None:
        """Like `cancel`, for a job that has not been started."""
        with self.change:
            self._receipt.status, self._receipt.message = pb.JOB_CANCELLED, why
            self._receipt.exit_code = 130
        self._close(files)

    def put_off(self) -> None:
        """Like `pause`, for a job that has not been started."""
        self.is_paused = True
        self._close()

    def _stop(self) -> None:
        if self._driver:
            self._driver.stop()

    def receipt(self, items: list[pb.ItemReceipt] | None = None) -> pb.JobReceipt:
        """The current receipt of the job, with these receipts of items."""
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
                source = Source.of(job, roots)
                self._driver = Driver(job, engine, book, "nodes", [self._on_event], source, followed=True)
                if self._cancelled or self.is_paused:
                    self._driver.stop()
                self._end(self._driver.run(), files)
        except ImageloomError as error:
            self._fail(error, files)
        except Exception as error:
            log.exception("job %s", self.id)
            self._fail(ImageloomError(f"the server failed: {type(error).__name__}: {error}"), files)

    def _on_event(self, event: Event) -> None:
        receipt = to_item_receipt(event)
        with self.change:
            match event:
                case Began(number):
                    self._receipt.job, self.has_begun = number, True
                case Done(result):
                    self._receipt.done += 1
                    if result.dropped or result.warnings:
                        self._note_losses(result)
                case Failed():
                    self._receipt.failed += 1
                case Skipped():
                    self._receipt.skipped += 1
            if receipt:
                for follower in self.followers:
                    follower.unsent.append(receipt)
            self.change.notify_all()

    def _note_losses(self, result: Result) -> None:
        self._losses.add(result)
        losses, receipt = self._losses, self._receipt
        receipt.lost, receipt.damaged, receipt.incomplete = losses.lost, losses.damaged, losses.incomplete
        for thing in result.dropped:
            receipt.dropped[thing] = losses.dropped[thing]

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
                    left_out=summary.left_out,
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
            with contextlib.suppress(StorageError):  # it is repeated after a restart: nothing is lost
                files.finish(self._receipt)
        with self.change:
            self.is_over = True
            self.change.notify_all()


def resumed(files: JobFiles) -> list[RunningJob]:
    """The jobs that an earlier server had accepted and not finished."""
    found = []
    for request in files.unfinished():
        try:
            found.append(RunningJob(request, to_job(request)))
        except ImageloomError as error:  # its pipeline may need an operators file that is no longer loaded
            files.finish(
                pb.JobReceipt(
                    id=request.id, status=pb.JOB_FAILURE, message=str(error), exit_code=error.exit_code
                )
            )
    return found
