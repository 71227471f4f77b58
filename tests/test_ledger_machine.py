"""The ledger against plain dictionaries: any history of claims, outcomes, kills and restarts."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from imageloom.model import Failure, Item, Result, Written
from imageloom.records.ledger import Ledger
from imageloom.records.schema import Claim, JobState

SOURCE, SINK = "/photos", "/out"
KEYS = ("a.jpg", "b.jpg", "b.png", "c.jpg")
RECIPES = ("grayscale", "invert")


def name_of(key: str) -> str:
    """b.jpg and b.png have the same output."""
    return f"{key.partition('.')[0]}.webp"


class Row(NamedTuple):
    """What is known of an output."""

    key: str
    fingerprint: str
    recipe: str
    owner: int
    """The job that claimed it first; 0 if it was filled before."""
    size: int | None


class Tables:
    """The ledger, as dictionaries that are changed at once."""

    def __init__(self) -> None:
        self.outputs: dict[str, Row] = {}
        self.items: dict[tuple[int, str], str] = {}
        """By job and key: the kind of the failure; empty for a done item."""
        self.jobs: dict[int, tuple[JobState, int, int, int]] = {}

    def claim(self, job: int, item: Item, recipe: str) -> None:
        name = name_of(item.key)
        old = self.outputs.get(name)
        owner = job if old is None else old.owner if old.size is None else 0
        self.outputs[name] = Row(item.key, item.fingerprint, recipe, owner, None)

    def done(self, job: int, key: str, size: int) -> None:
        self.outputs[name_of(key)] = self.outputs[name_of(key)]._replace(size=size)
        self.items[job, key] = ""

    def release(self, job: int, key: str) -> None:
        row = self.outputs.get(name_of(key))
        if row and row.size is None and row.owner == job:
            del self.outputs[name_of(key)]

    def failed(self, job: int, key: str, kind: str) -> None:
        self.release(job, key)
        self.items[job, key] = kind


class LedgerMachine(RuleBasedStateMachine):
    """One driver after another, each with one job. `now` is what the driver has recorded, `written` what is in the
    file: a kill loses what is not in it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.db"
        self.now, self.written = Tables(), Tables()
        self.job = 0
        self.claimed: dict[str, Item] = {}
        """The items in progress."""
        self.unsettled: set[str] = set()
        """Names with an outcome that is not written."""
        self.fresh: dict[str, Row] = {}
        """Claims that are not written."""

    def teardown(self) -> None:
        self.ledger._db.close()
        self.folder.cleanup()

    def wrote(self) -> None:
        """All pending rows are in the file."""
        self.written.outputs = dict(self.now.outputs)
        self.written.items = dict(self.now.items)
        self.unsettled.clear()
        self.fresh.clear()

    # Runs

    @initialize()
    def open(self) -> None:
        self.ledger = Ledger(self.path)

    @rule(durable=st.booleans())
    @precondition(lambda self: not self.job)
    def begin(self, durable: bool) -> None:
        if durable:
            self.ledger.survive_power_cuts()
        self.job = self.ledger.begin(SOURCE, SINK, "a recipe", "serial", 1)
        for job, (state, *numbers) in self.written.jobs.items():
            if state == "running":
                self.written.jobs[job] = "killed", *numbers  # type: ignore[assignment]
        self.written.jobs[self.job] = "running", 0, 0, 0

    @rule(
        state=st.sampled_from(["done", "interrupted", "failed"]), numbers=st.tuples(*[st.integers(0, 9)] * 3)
    )
    @precondition(lambda self: self.job)
    def finish(self, state: JobState, numbers: tuple[int, int, int]) -> None:
        for key in list(self.claimed):
            self.give_up(key)
        self.ledger.finish(self.job, state, *numbers)
        self.written.jobs[self.job] = state, *numbers
        self.wrote()
        self.job = 0

    @rule()
    def kill_and_reopen(self) -> None:
        self.ledger._db.close()
        self.ledger = Ledger(self.path)
        self.now = copy.deepcopy(self.written)
        self.job = 0
        self.claimed.clear()
        self.unsettled.clear()
        self.fresh.clear()

    @rule()
    @precondition(lambda self: not self.job)
    def close_and_reopen(self) -> None:
        self.ledger.close()
        self.ledger = Ledger(self.path)

    # Items

    @rule(key=st.sampled_from(KEYS), version=st.integers(1, 3), recipe=st.sampled_from(RECIPES))
    @precondition(lambda self: self.job)
    def claim(self, key: str, version: int, recipe: str) -> None:
        """As a sink does: a name that another item in progress has claimed is refused before."""
        name = name_of(key)
        if any(name_of(other) == name for other in self.claimed):
            return
        item = self.claimed[key] = Item(key, version, version)
        if name in self.unsettled:
            self.wrote()
        self.ledger.claim(self.job, SOURCE, SINK, item, recipe, name)
        self.now.claim(self.job, item, recipe)
        self.fresh[name] = Row(key, item.fingerprint, recipe, self.job, None)

    @rule(data=st.data(), size=st.integers(0, 99))
    @precondition(lambda self: self.claimed)
    def done(self, data: st.DataObject, size: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.claimed)))
        del self.claimed[key]
        self.ledger.record_done(self.job, SINK, Result(key, (Written(name_of(key), "token", size),)), 1, "w")
        self.now.done(self.job, key, size)
        self.unsettled.add(name_of(key))

    @rule(data=st.data(), kind=st.sampled_from(["CorruptImage", "ItemTimeout"]))
    @precondition(lambda self: self.claimed)
    def failed(self, data: st.DataObject, kind: str) -> None:
        key = data.draw(st.sampled_from(sorted(self.claimed)))
        del self.claimed[key]
        result = Result(key, failure=Failure(kind, "why", trace="line 1"))
        self.ledger.record_failed(self.job, SINK, result, 1, "w", (name_of(key),))
        self.now.failed(self.job, key, kind)
        self.unsettled.add(name_of(key))

    @rule(data=st.data())
    @precondition(lambda self: self.claimed)
    def outdated(self, data: st.DataObject) -> None:
        """The item is skipped: its file has changed."""
        self.give_up(data.draw(st.sampled_from(sorted(self.claimed))))

    def give_up(self, key: str) -> None:
        del self.claimed[key]
        self.ledger.release(self.job, SINK, (name_of(key),))
        self.now.release(self.job, key)
        self.unsettled.add(name_of(key))

    @rule()
    def flush(self) -> None:
        self.ledger.flush()
        self.wrote()

    @rule()
    @precondition(lambda self: self.job)
    def history(self) -> None:
        found = {one.key: one.failure.kind if one.failure else "" for one in self.ledger.items(self.job)}
        self.wrote()
        assert found == {key: kind for (job, key), kind in self.written.items.items() if job == self.job}

    # What must hold

    @invariant()
    def claims_are_those_of_the_newest(self) -> None:
        for name in {name_of(key) for key in KEYS}:
            row = self.fresh.get(name) or self.written.outputs.get(name)
            expected = row and Claim(SOURCE, row.key, row.owner, row.size is not None)
            assert self.ledger.claim_of(SINK, name) == expected

    @invariant()
    def done_is_what_is_written(self) -> None:
        for key in KEYS:
            for version in (1, 2, 3):
                item = Item(key, version, version)
                for recipe in RECIPES:
                    row = self.written.outputs.get(name_of(key))
                    is_it = row and (row.key, row.fingerprint, row.recipe) == (key, item.fingerprint, recipe)
                    expected = [(name_of(key), row.size)] if row and is_it and row.size is not None else []
                    assert self.ledger.done(SOURCE, SINK, item, recipe) == expected

    @invariant()
    def failed_before_is_what_failed_last(self) -> None:
        last: dict[str, str] = {}
        for (_, key), kind in sorted(self.written.items.items()):
            last[key] = kind
        assert self.ledger.failed_before(SOURCE, SINK) == {key for key, kind in last.items() if kind}

    @invariant()
    def jobs_are_as_they_ended(self) -> None:
        found = {one.id: (one.state, one.done, one.failed, one.skipped) for one in self.ledger.jobs()}
        assert found == self.written.jobs


def test_a_history() -> None:
    run_state_machine_as_test(LedgerMachine, settings=settings(max_examples=12, stateful_step_count=25))


@pytest.mark.long
def test_a_long_history() -> None:
    run_state_machine_as_test(LedgerMachine, settings=settings(max_examples=2000, stateful_step_count=60))
