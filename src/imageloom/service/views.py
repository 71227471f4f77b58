"""Reads what a job service has and had: flows, jobs, and items. Nothing is changed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from imageloom.errors import ImageloomError, UnknownName, UsageError, WrongState
from imageloom.model import Plain
from imageloom.records.history import History, ItemLine
from imageloom.records.timeline import path_of
from imageloom.service.activity import ActivityView
from imageloom.service.flowjob import FlowJob, Numbers
from imageloom.service.flows import BrokenFlow, Flow, FlowFolder
from imageloom.service.state import JobRow, ServiceState

MOST_CHOSEN = 1000
"""Maximum number of items of one request."""


class JobView(Plain, frozen=True):
    """A job with its progress."""

    row: JobRow
    numbers: Numbers
    when: str
    is_current: bool
    """Whether the flow's file is still the one that the job was started with."""
    seconds_left: float | None
    """At the present rate; None if it cannot be said."""


class Views:
    """The views of a service.

    Args:
        running: its jobs that run, by number.
    """

    def __init__(
        self, flows: FlowFolder, state: ServiceState, ledger: Path, running: Mapping[int, FlowJob]
    ) -> None:
        self.flows, self.state, self.ledger = flows, state, ledger
        self._running = running

    def flow(self, name: str) -> Flow | BrokenFlow:
        """The flow with this name.

        Raises:
            UnknownName: there is none.
        """
        found = self.flows.flow(name)
        if found is None:
            raise UnknownName(f"there is no flow {name!r:.80}")
        return found

    def job(self, id: int) -> JobView:
        """The job with this number.

        Raises:
            UnknownName: there is none.
        """
        return self.view(self.row(id))

    def view(self, row: JobRow) -> JobView:
        running = self._running.get(row.id)
        numbers = running.numbers if running else Numbers(row.done, row.failed, row.skipped)
        flow = running.flow if running else None
        try:
            is_current = self.flows.text(row.flow) == row.text
        except (OSError, ImageloomError):
            is_current = False
        left = None
        if row.total is not None and numbers.rate > 0 and row.state == "running":
            left = max(0, row.total - numbers.done - numbers.failed - numbers.skipped) / numbers.rate
        return JobView(row, numbers, flow.when if flow else "", is_current, left)

    def activity(self, id: int) -> ActivityView | None:
        """What a job did in the last minutes; None if it does not run."""
        running = self._running.get(id)
        return running.activity.view(time.time()) if running else None

    def reports(self, id: int) -> list[int]:
        """The runs of a job whose timelines were recorded, the oldest first."""
        return [run for run in self.state.runs(id) if path_of(self.ledger, run).exists()]

    def latest(self, flow: str) -> JobView | None:
        """The latest job of a flow."""
        rows = self.state.jobs(flow, most=1)
        return self.view(rows[0]) if rows else None

    def items(
        self, id: int, state: str = "", text: str = "", after: str = "", most: int = 100
    ) -> list[ItemLine]:
        """Items of a job in the order of their keys; see `History.items`."""
        self.row(id)
        with History(self.ledger) as history:
            return history.items(self.state.runs(id), state, text, after, most)

    def item(self, id: int, key: str) -> ItemLine:
        """One item of a job.

        Raises:
            UnknownName: the job has no such item, or it has no outcome yet.
        """
        self.row(id)
        with History(self.ledger) as history:
            found = history.item(self.state.runs(id), key)
        if found is None:
            raise UnknownName(f"job {id} has no item {key!r:.200}, or it has no outcome yet")
        return found

    def failed(self, id: int, keys: Sequence[str] | None) -> list[str]:
        """Failed items of a job: these, or all of them.

        Raises:
            UnknownName: there is no such item.
            WrongState: an item has not failed.
            UsageError: too many are chosen.
        """
        with History(self.ledger) as history:
            runs = self.state.runs(id)
            if keys is None:
                return list(history.failed(runs))
            if len(keys) > MOST_CHOSEN:
                raise UsageError(f"at most {MOST_CHOSEN} items in one request")
            for key in keys:
                item = history.item(runs, key)
                if item is None:
                    raise UnknownName(f"job {id} has no item {key!r:.200}, or it has no outcome yet")
                if item.state != "failed":
                    raise WrongState(f"{key!r:.200} is done: only failed items are tried again")
        return list(keys)

    def outputs(self, id: int, key: str) -> list[str]:
        """The names of an item's outputs in the sink."""
        with History(self.ledger) as history:
            return history.outputs((self.state.runs(id) or [0])[-1], key)

    def trace(self, id: int, key: str) -> str:
        """The traceback of an item's failure; empty if there is none."""
        with History(self.ledger) as history:
            return history.trace(self.state.runs(id), key)

    def row(self, id: int) -> JobRow:
        """The record of a job.

        Raises:
            UnknownName: there is none.
        """
        row = self.state.job(id)
        if row is None:
            raise UnknownName(f"there is no job {id}")
        return row
