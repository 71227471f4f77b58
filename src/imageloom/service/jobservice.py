"""The job service: flows, their jobs, and the items of these. Pages and APIs show it and steer it.

All that people decide is recorded before it takes effect. So a service that was killed, at any moment, continues
as it was: jobs that ran or waited go on, paused ones stay paused, and no item that is done is done again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from imageloom.engines import Engine
from imageloom.errors import ImageloomError, ServerBusy, UnknownName, UsageError, WrongState
from imageloom.records.history import History
from imageloom.records.ledger import Ledger
from imageloom.service.feed import Feed
from imageloom.service.flowjob import FlowJob, Site
from imageloom.service.flows import BrokenFlow, Flow, FlowFolder
from imageloom.service.outcomes import Outcomes
from imageloom.service.state import JobRow, ServiceState
from imageloom.service.turns import Turns
from imageloom.service.views import JobView, Views
from imageloom.service.webhooks import Webhooks

RUNNING = 16
"""Maximum number of jobs that run at the same time. The others wait."""
MOST_OPEN = 300
"""Maximum number of jobs that have not ended. Flows have at most one each."""
REPORT = 0.2
"""Seconds between two messages about a job's progress."""
LOOK = 1.0
"""Seconds between two looks at the folder of flows."""
SAVE = 2.0
"""Seconds between two savings of the progress of jobs, which is only shown."""

log = logging.getLogger(__name__)


class JobService:
    """The service.

    Args:
        flows: the folder of flows.
        state: what it remembers. The caller closes it.
        ledger: path of the ledger.
        roots: local folders that sources must be inside.
        turns: how the flows share an engine, which the caller closes.
        running: maximum number of jobs that run at the same time.
        timeout: time-out of one item, in seconds.
        webhook_secret: signs what is sent to the webhooks of `state`.
    """

    def __init__(
        self,
        flows: FlowFolder,
        state: ServiceState,
        ledger: Path,
        turns: Turns,
        roots: tuple[str, ...],
        running: int = RUNNING,
        timeout: float = 600.0,
        webhook_secret: bytes = b"",
    ) -> None:
        self.flows, self.state, self.ledger, self.turns = flows, state, ledger, turns
        self.feed, self.outcomes = Feed(), Outcomes()
        self.began = time.time()
        self._running, self.roots = running, roots
        self._webhooks = Webhooks(state, webhook_secret)
        self._site = Site(state, ledger, turns, roots, self.feed, timeout, self.outcomes, self._webhooks)
        self._lock = threading.RLock()
        self._jobs: dict[int, FlowJob] = {}
        """The jobs that have not ended and are not paused, in the order in which they begin."""
        self.views = Views(flows, state, ledger, self._jobs)
        self._changed = threading.Event()
        self._leaving = threading.Event()
        self._threads: list[threading.Thread] = []
        """Those of the jobs; some may have ended."""
        self._known = flows.versions()
        Ledger(ledger).close()  # it exists, for those who read it
        for row in state.open_jobs():
            self._resume_after_restart(row)
        self._thread = threading.Thread(target=self._watch, name="service", daemon=True)
        self._thread.start()

    @property
    def engine(self) -> Engine:
        return self.turns.engine

    def leave(self) -> None:
        """Finish the items in progress, and begin no others. The jobs go on when the service starts again."""
        self._leaving.set()
        self._changed.set()
        self._thread.join()
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.stop()
        for thread in self._threads:
            thread.join()
        self._webhooks.close()

    # What people decide

    def start(self, name: str) -> JobView:
        """Start a job of a flow.

        Raises:
            UnknownName: there is no such flow.
            UsageError: it is not valid.
            WrongState: a job of it has not ended.
        """
        flow = self.views.flow(name)
        if isinstance(flow, BrokenFlow):
            raise UsageError(f"the flow {name} is not valid: {flow.error}")
        with self._lock:
            self._refuse_open(name)
            return self._add(flow, self.flows.text(name))

    def submit(self, name: str, text: str) -> JobView:
        """Start a job that belongs to no flow.

        Args:
            name: a new name for it. The same name with the same text is the same job: so a caller that did not get
                the answer may repeat the request.
            text: as in the file of a flow that is not watched.

        Raises:
            UsageError, TaskRefused: it is not valid; see `Rules.flow`.
            WrongState: there is a flow, or another job, with this name.
            ServerBusy: too many jobs have not ended.
        """
        flow = self.flows.rules.flow(name, text)
        if flow.when != "once":
            raise UsageError("when: a job that is submitted runs once; make a flow to watch a source")
        with self._lock:
            if rows := self.state.jobs(name, most=1):
                if rows[0].text == text:
                    return self.views.view(rows[0])
                raise WrongState(f"there is a job with the name {name} already")
            if self.flows.flow(name):
                raise WrongState(f"there is a flow {name} already")
            if len(self.state.open_jobs()) >= MOST_OPEN:
                raise ServerBusy(f"{MOST_OPEN} jobs have not ended, the maximum: try again later")
            return self._add(flow, text)

    def _add(self, flow: Flow, text: str) -> JobView:
        row = self.state.add_job(flow.name, text)
        self._put(FlowJob(row, flow, self._site, self._wake))
        return self.views.view(row)

    def pause(self, id: int) -> JobView:
        """Pause a job: its items in progress are finished.

        Raises:
            UnknownName, WrongState: there is no such job, or it has ended.
        """
        return self._want(id, "pause")

    def cancel(self, id: int) -> JobView:
        """End a job: its items in progress are finished.

        Raises:
            UnknownName, WrongState: there is no such job, or it has ended.
        """
        return self._want(id, "cancel")

    def resume(self, id: int) -> JobView:
        """Go on with a paused job.

        Raises:
            UnknownName, WrongState: there is no such job, or it has ended.
        """
        with self._lock:
            row = self._open_row(id)
            if row.wanted == "pause":
                self.state.set_job(id, wanted="run")
                if row.state == "paused":
                    self._reopen(row)
        self._tell(id)
        return self.views.job(id)

    def retry(self, id: int, keys: Sequence[str] | None = None) -> int:
        """Process failed items again.

        Args:
            keys: which; None for all that failed.

        Returns:
            How many.

        Raises:
            UnknownName: there is no such job or item.
            WrongState: an item has not failed, or another job of the flow has not ended.
        """
        with self._lock:
            row = self.views.row(id)
            if row.ended is not None:
                self._refuse_open(row.flow)
            chosen = self.views.failed(id, keys)
            if not chosen:
                return 0
            self.state.add_retries(id, chosen)
            if row.ended is not None:
                self.state.set_job(id, state="queued", wanted="run", ended=None, message="")
                self._reopen(row)
            elif job := self._jobs.get(id):
                for key in chosen:
                    job.again(key)
        self._tell(id)
        return len(chosen)

    def set_aside(self, flow: str, key: str, is_aside: bool) -> None:
        """Set an item of a flow aside: it is not processed until it is put back.

        Raises:
            UnknownName: there is no such flow.
        """
        self.views.flow(flow)
        with self._lock:
            self.state.set_aside(flow, key, is_aside)
            for job in self._jobs.values():
                if job.flow.name == flow:
                    job.set_aside(key, is_aside)
                    if not is_aside:
                        job.again(key)
        self.feed.add("aside", flow=flow, key=key, is_aside=is_aside)

    def hear(self, name: str, keys: Sequence[str]) -> bool:
        """Process items of a watched flow that may be new, without waiting for the next listing.

        Returns:
            Whether the flow runs. If not, the listing at its next start finds them.

        Raises:
            UnknownName: there is no such flow.
        """
        self.views.flow(name)
        with self._lock:
            jobs = [job for job in self._jobs.values() if job.flow.name == name]
        return any(job.hear(keys) for job in jobs)

    def write_flow(self, name: str, text: str, replace: bool) -> Flow:
        """Write a flow's file. A watched flow that is new starts by itself.

        Raises:
            UsageError, TaskRefused, StorageError: see `FlowFolder.write`.
            WrongState: there is such a flow, and `replace` is False.
        """
        try:
            flow = self.flows.write(name, text, replace)
        except FileExistsError:
            raise WrongState(f"there is a flow {name!r:.80} already") from None
        self._look_at_flows()
        return flow

    def delete_flow(self, name: str) -> None:
        """Delete a flow's file. Its jobs stay in the history.

        Raises:
            UnknownName: there is no such flow.
            WrongState: a job of it has not ended.
        """
        with self._lock:
            self._refuse_open(name)
            try:
                self.flows.delete(name)
            except FileNotFoundError:
                raise UnknownName(f"there is no flow {name!r:.80}") from None
        self._look_at_flows()

    # Jobs

    def _open_row(self, id: int) -> JobRow:
        row = self.views.row(id)
        if row.ended is not None:
            raise WrongState(f"job {id} has ended: it is {row.state}")
        return row

    def _refuse_open(self, flow: str) -> None:
        for row in self.state.open_jobs():
            if row.flow == flow:
                raise WrongState(f"job {row.id} of the flow {flow} has not ended: it is {row.state}")

    def _want(self, id: int, wanted: str) -> JobView:
        with self._lock:
            self._open_row(id)
            self.state.set_job(id, wanted=wanted)
            job = self._jobs.get(id)
            if job and job.is_running:
                job.stop()
            else:
                self._jobs.pop(id, None)
                self._settle(id, wanted)
        self._tell(id)
        return self.views.job(id)

    def _settle(self, id: int, wanted: str) -> None:
        """Record what is wanted of a job that does not run."""
        if wanted == "cancel":
            self.state.set_job(id, state="cancelled", ended=time.time(), is_listed=1)
        else:
            self.state.set_job(id, state="paused")

    def _resume_after_restart(self, row: JobRow) -> None:
        runs = self.state.runs(row.id)
        if runs:
            with History(self.ledger) as history:
                done, failed = history.counts(runs)
            self.state.set_job(row.id, done=done, failed=failed)
        if row.wanted == "run":
            self.state.set_job(row.id, state="queued")
            self._reopen(row)
        else:
            self._settle(row.id, row.wanted)

    def _reopen(self, row: JobRow) -> None:
        """Put a recorded job into the queue, with the flow as it was when the job was started."""
        try:
            flow = self.flows.rules.flow(row.flow, row.text)
        except ImageloomError as error:  # the roots or the files of operators have changed
            self.state.set_job(row.id, state="error", message=str(error), ended=time.time(), is_listed=1)
            return
        self.state.set_job(row.id, state="queued")
        self._put(FlowJob(self.views.row(row.id), flow, self._site, self._wake))

    def _put(self, job: FlowJob) -> None:
        with self._lock:
            self._jobs[job.id] = job
            self._fill()
        self._tell(job.id)

    def _fill(self) -> None:
        """Start the jobs whose turn it is."""
        with self._lock:
            running = sum(job.is_running for job in self._jobs.values())
            for job in list(self._jobs.values()):
                if running >= self._running or self._leaving.is_set():
                    return
                if not job.is_running and job.not_before <= time.monotonic():
                    running += 1
                    self._threads = [thread for thread in self._threads if thread.is_alive()]
                    self._threads.append(job.start(self._on_end))

    def _on_end(self, job: FlowJob) -> None:
        """Called in a job's thread at its end."""
        with self._lock:
            row = self.views.row(job.id)
            if row.state == "done" and self.state.retries(job.id):
                self.state.set_job(job.id, state="queued", ended=None)
            elif row.state != "queued":
                self._jobs.pop(job.id, None)
            elif row.wanted != "run":  # it was decided while the job ended
                self._jobs.pop(job.id, None)
                self._settle(job.id, row.wanted)
            self._fill()
        self._tell(job.id)

    # The service's own thread

    def _wake(self) -> None:
        self._changed.set()

    def _tell(self, id: int) -> None:
        """Report a job."""
        if row := self.state.job(id):
            view = self.views.view(row)
            n = view.numbers
            self.feed.add(
                "job", id=id, flow=row.flow, state=row.state, wanted=row.wanted, total=row.total,
                done=n.done, failed=n.failed, skipped=n.skipped, rate=round(n.rate, 3),
            )  # fmt: skip

    def _watch(self) -> None:
        """Report progress, start what is due, and see which flows there are."""
        saved = looked = 0.0
        while not self._leaving.is_set():
            self._changed.wait(LOOK)
            self._changed.clear()
            now = time.monotonic()
            try:
                with self._lock:
                    jobs = list(self._jobs.values())
                for job in jobs:
                    if job.is_dirty:
                        job.is_dirty = False
                        self._tell(job.id)
                if now - saved > SAVE:
                    saved = now
                    self._save(jobs)
                if now - looked >= LOOK:
                    looked = now
                    self._look_at_flows()
                    self._fill()
            except Exception:  # the next look may succeed
                log.exception("the service's own thread failed")
            self._leaving.wait(REPORT)

    def _save(self, jobs: list[FlowJob]) -> None:
        for job in jobs:
            if job.is_running:
                n = job.numbers
                row = self.views.row(job.id)
                if (row.done, row.failed, row.skipped) != (n.done, n.failed, n.skipped) and row.ended is None:
                    self.state.set_job(job.id, done=n.done, failed=n.failed, skipped=n.skipped)

    def _look_at_flows(self) -> None:
        """Start watched flows that never had a job, and report flows that have changed."""
        known, self._known = self._known, self.flows.versions()
        for name in self.flows.names():
            flow = self.flows.flow(name)
            if isinstance(flow, Flow) and flow.when == "watched" and not self.state.jobs(name, most=1):
                try:
                    self.start(name)
                except (WrongState, UnknownName, UsageError):  # its file has changed meanwhile
                    continue
        if known != self._known:
            self.feed.add("flows")
