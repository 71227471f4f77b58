"""A local sink against a dictionary: any history of outputs, of files of others, of crashes and restarts."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

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

from imageloom.driver.clock import REAL
from imageloom.driver.rounds import Finished, Rounds
from imageloom.driver.sink import Sink
from imageloom.driver.source import Source
from imageloom.errors import OutputExists
from imageloom.model import IfExists, Item, Output, Recipe, Result, Work, Written
from imageloom.recipes.meaning import Meanings
from imageloom.records.ledger import Ledger
from imageloom.stores.local import LocalStore
from imageloom.stores.names import STAGING, new_token

KEYS = ("1.jpg", "2.jpg", "a/1.jpg", "a/b/1.jpg")
MEANINGS = Meanings(Recipe((Output(()),)), "{dir}/{stem}.{ext}")
RECIPE = MEANINGS.of("1.jpg")


class SinkMachine(RuleBasedStateMachine):
    """One run after another into the same folder. The names of outputs are those of their inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.out = self.root / "out"
        for key in KEYS:
            (self.root / "in" / key).parent.mkdir(parents=True, exist_ok=True)
            (self.root / "in" / key).write_bytes(b"input")
        self.files: dict[str, bytes] = {}
        """What must be in the sink."""
        self.ours: set[str] = set()
        """The names that imageloom may write: it has claimed them, and the claim is written."""
        self.staged: dict[str, Finished] = {}
        self.waiting: dict[str, Finished] = {}
        self.renamed: dict[str, Finished] = {}
        self.published: dict[str, bytes] = {}
        """What was recorded as done last, by name."""
        self.number = 0
        self.beside: set[str] = set()
        """Files of others in the staging folder."""

    def teardown(self) -> None:
        self.crash()
        self.folder.cleanup()

    @initialize(if_exists=st.sampled_from(["error", "skip", "overwrite"]), durable=st.booleans())
    def begin(self, if_exists: IfExists, durable: bool) -> None:
        self.if_exists, self.is_durable = if_exists, durable
        self.open()

    def open(self) -> None:
        self.ledger = Ledger(self.root / "state" / "ledger.db")
        self.other = Ledger(self.ledger.path)  # what is written, as another program sees it
        self.sink = Sink(str(self.out), Source(str(self.root / "in")), self.ledger, self.if_exists)
        self.sink.open()
        if self.is_durable:
            self.sink.survive_power_cuts()
        self.rounds = Rounds(self.sink, self.ledger, MEANINGS, 1.0, REAL)
        self.job = self.ledger.begin(str(self.root / "in"), str(self.out), "", "serial", 1)

    def forget(self) -> None:
        """What a run that has ended knows no more."""
        self.staged.clear()
        self.waiting.clear()
        self.renamed.clear()

    def crash(self) -> None:
        assert isinstance(self.sink.store, LocalStore)
        self.other.close()
        self.ledger._db.close()
        self.sink.store.close()
        os.close(self.sink._lock)
        self.forget()

    @rule()
    def crash_and_reopen(self) -> None:
        self.crash()
        self.open()

    @rule()
    def end_and_reopen(self) -> None:
        for one in self.staged.values():
            self.sink.discard(one.result)
        while self.rounds:
            self.turn()
        self.sink.close()
        assert {path.name for path in (self.out / STAGING).glob("*")} == self.beside
        self.other.close()
        self.ledger.close()
        self.forget()
        self.open()

    # Other programs

    @rule(key=st.sampled_from(KEYS), content=st.binary(max_size=3))
    def somebody_writes(self, key: str, content: bytes) -> None:
        """A file that is there before its name is claimed."""
        if key in self.in_progress or key in self.ours:
            return
        (self.out / key).parent.mkdir(parents=True, exist_ok=True)
        (self.out / key).write_bytes(content)
        self.files[key] = content

    @rule(key=st.sampled_from(KEYS))
    def somebody_deletes(self, key: str) -> None:
        if key not in self.in_progress:
            (self.out / key).unlink(missing_ok=True)
            self.files.pop(key, None)

    @rule(key=st.sampled_from(KEYS), content=st.binary(max_size=3))
    def somebody_writes_meanwhile(self, key: str, content: bytes) -> None:
        """A file that appears between the check of its name and the rename."""
        one = self.staged.get(key) or self.waiting.get(key)
        if one is None or one.work.replace or key in self.files:
            return
        (self.out / key).parent.mkdir(parents=True, exist_ok=True)
        (self.out / key).write_bytes(content)
        self.files[key] = content

    @rule(name=st.sampled_from(["notes.txt", "1-1-1-xyz"]))
    def somebody_puts_a_file_beside_what_is_staged(self, name: str) -> None:
        (self.out / STAGING / name).write_bytes(b"somebody's")
        self.beside.add(name)

    # One run

    @property
    def in_progress(self) -> set[str]:
        return self.staged.keys() | self.waiting.keys() | self.renamed.keys()

    @rule(key=st.sampled_from(KEYS), content=st.binary(min_size=4, max_size=6))
    def plan_and_stage(self, key: str, content: bytes) -> None:
        if key in self.in_progress:
            return
        item = Item(key, 5, 5)
        is_foreign = key in self.files and key not in self.ours
        try:
            replace = self.sink.claim(self.job, item, RECIPE, (key,))
        except OutputExists:
            assert is_foreign
            assert self.if_exists == "error"
            return
        if replace is None:
            assert is_foreign
            assert self.if_exists == "skip"
            return
        assert not is_foreign or self.if_exists == "overwrite"
        self.number += 1
        token = new_token(str(self.job), self.number, 1)
        self.sink.store.stage(token, content)
        result = Result(key, (Written(key, token, len(content)),))
        self.staged[key] = Finished(Work(item, (key,), self.number, replace=replace), result, "w", 0)

    def content(self, one: Finished) -> bytes:
        return (self.out / STAGING / one.result.written[0].staged).read_bytes()

    @rule(data=st.data())
    @precondition(lambda self: self.staged)
    def publish(self, data: st.DataObject) -> None:
        """At once, or in the next round."""
        key = data.draw(st.sampled_from(sorted(self.staged)))
        one = self.staged.pop(key)
        if self.is_durable:
            self.rounds.add(self.job, one)
            self.waiting[key] = one
            return
        content = self.content(one)
        if self.is_taken(key, one):
            with pytest.raises(OutputExists):
                self.sink.publish(self.job, one.work, RECIPE, one.result)
            self.refuse(key, one)
            return
        self.sink.publish(self.job, one.work, RECIPE, one.result)
        self.ledger.record_done(self.job, self.sink.address, one.result, 1, "w")
        self.files[key] = self.published[key] = content

    @rule()
    @precondition(lambda self: self.waiting or self.renamed)
    def turn(self) -> None:
        """One round: what was renamed is done, what was staged is renamed."""
        taken = [key for key, one in self.waiting.items() if self.is_taken(key, one)]
        contents = {key: self.content(one) for key, one in self.waiting.items() if key not in taken}
        ended = list(self.rounds.turn(self.job))
        failed = {one.work.item.key: one.result.failure for one in ended if one.result.failure}
        assert [failure.kind for failure in failed.values()] == ["OutputExists"] * len(taken)
        assert failed.keys() == set(taken)
        assert {one.work.item.key for one in ended} == self.renamed.keys() | failed.keys()
        for key in taken:
            self.refuse(key, self.waiting.pop(key))
        self.published.update({key: self.files[key] for key in self.renamed})
        self.files.update(contents)
        self.renamed, self.waiting = self.waiting, {}

    def is_taken(self, key: str, one: Finished) -> bool:
        """Whether somebody else's file has the name of an output that must not replace it."""
        return key in self.files and not one.work.replace

    def refuse(self, key: str, one: Finished) -> None:
        self.sink.discard(one.result)
        self.ledger.release(self.job, self.sink.address, (key,))
        self.ledger.flush()

    @rule(data=st.data())
    @precondition(lambda self: self.staged)
    def discard(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.staged)))
        self.sink.discard(self.staged.pop(key).result)
        self.ledger.release(self.job, self.sink.address, (key,))

    # What must hold

    @invariant()
    def the_files_are_those_that_were_written(self) -> None:
        paths = [path for path in self.out.rglob("*") if path.is_file()]
        found = {path.relative_to(self.out).as_posix(): path.read_bytes() for path in paths}
        staged = {name.rpartition("/")[2] for name in found if name.startswith(f"{STAGING}/")}
        tokens = {one.result.written[0].staged for one in (*self.staged.values(), *self.waiting.values())}
        assert staged == tokens | self.beside
        assert {key: content for key, content in found.items() if not key.startswith(STAGING)} == self.files

    @invariant()
    def no_output_is_there_without_a_claim(self) -> None:
        self.ours = {key for key in KEYS if self.other.claim_of(self.sink.address, key)}
        assert self.renamed.keys() <= self.ours
        assert {key for key in self.published if key in self.files} <= self.ours

    @invariant()
    def done_is_what_is_published(self) -> None:
        for key in KEYS:
            made = self.other.done(str(self.root / "in"), self.sink.address, Item(key, 5, 5), RECIPE)
            if made:
                assert made == [(key, len(self.published[key]))]
                assert self.files.get(key) in (None, self.published[key])


def test_a_history() -> None:
    run_state_machine_as_test(SinkMachine, settings=settings(max_examples=12, stateful_step_count=25))


@pytest.mark.long
def test_a_long_history() -> None:
    run_state_machine_as_test(SinkMachine, settings=settings(max_examples=1000, stateful_step_count=50))
