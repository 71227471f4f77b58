"""Questions to stores, asked ahead: in the order of the entries, in bunches, never too many at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageloom.driver.lookahead import Entry, look_ahead, with_next
from imageloom.model import Item
from imageloom.worker.controller import fixed

PLENTY = 1 << 30


def questions(
    entries: Iterable[Entry], ask: Callable[[Entry], object]
) -> Iterator[tuple[Entry, Callable[[], object]]]:
    for entry in entries:
        yield entry, lambda entry=entry: ask(entry)  # type: ignore[misc]


def items(count: int, size: int = 1) -> list[Item]:
    return [Item(f"{number}", size) for number in range(count)]


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 8))
def test_answers_come_in_the_order_of_the_entries(is_item: list[bool], in_flight: int) -> None:
    entries: list[Entry] = [Item(f"{number}", 1) if one else None for number, one in enumerate(is_item)]
    found = [
        (entry, answer())
        for entry, answer in look_ahead(questions(entries, lambda entry: entry), fixed(in_flight), PLENTY)
    ]
    assert found == [(entry, entry) for entry in entries]


def test_the_last_answers_may_be_asked_for_after_the_last_entry() -> None:
    """Who wants to know whether an entry is the last one fetches the next one before the answer."""
    asked_for = threading.Event()

    def ask(entry: Entry) -> Entry:
        assert asked_for.wait(20)
        return entry

    entries = items(9)
    found = list(look_ahead(questions(entries, ask), fixed(2), PLENTY))
    asked_for.set()
    assert [answer() for _, answer in found] == entries


def test_as_many_are_asked_at_the_same_time_as_are_to_be_in_flight() -> None:
    together = threading.Barrier(5, timeout=60)
    for _, answer in look_ahead(questions(items(20), lambda _: together.wait()), fixed(5), PLENTY):
        answer()


def test_questions_go_out_in_bunches_and_no_more_than_four_times_as_many() -> None:
    asked: list[Item] = []

    def entries() -> Iterator[Item]:
        for item in items(400):
            asked.append(item)
            yield item

    grew, before = [], 0
    for number, (_, answer) in enumerate(look_ahead(questions(entries(), lambda _: None), fixed(8), PLENTY)):
        answer()
        assert len(asked) - number <= 4 * 8 + 1
        grew.append(len(asked) - before)
        before = len(asked)
    bunches = [count for count in grew[1:-40] if count]
    assert bunches
    assert min(bunches) > 8, "one by one they would cost both ends more"


def test_items_that_are_large_wait_for_room() -> None:
    asked: list[Item] = []

    def entries() -> Iterator[Item]:
        for item in items(50, size=1000):
            asked.append(item)
            yield item

    for number, (_, answer) in enumerate(look_ahead(questions(entries(), lambda _: None), fixed(8), 5000)):
        answer()
        assert len(asked) - number <= 5 + 1


def test_where_nothing_follows_all_before_is_answered_first() -> None:
    answered: list[object] = []

    def ask(entry: Entry) -> None:
        time.sleep(0.01)
        answered.append(entry)

    entries: list[Entry] = [*items(7), None, *items(3)]
    for entry, answer in look_ahead(questions(entries, ask), fixed(4), PLENTY):
        if entry is None:
            assert len(answered) == 7
        else:
            answer()


def test_what_a_question_raises_comes_with_its_entry() -> None:
    def ask(entry: Entry) -> None:
        if entry == Item("3", 1):
            raise OSError("gone")

    for entry, answer in look_ahead(questions(items(6), ask), fixed(2), PLENTY):
        if entry == Item("3", 1):
            with pytest.raises(OSError, match="gone"):
                answer()
        else:
            answer()


def test_who_leaves_early_waits_for_no_more_than_what_is_asked() -> None:
    asked: list[Entry] = []

    def ask(entry: Entry) -> None:
        asked.append(entry)
        time.sleep(0.05)

    answers = look_ahead(questions(items(100), ask), fixed(2), PLENTY)
    next(answers)[1]()
    answers.close()  # type: ignore[attr-defined]
    assert len(asked) < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_an_entry_does_not_wait_while_the_driver_waits() -> None:
    """After a None the driver waits, and then gets the entry that has arrived, not one more None."""
    arrived: list[Item] = []
    asked = []

    def source() -> Iterator[tuple[Item | None, None]]:
        while True:
            asked.append(1)
            yield (arrived.pop() if arrived else None), None

    entries = with_next(source())
    assert next(entries)[0][0] is None
    assert len(asked) == 1
    arrived.append(Item("a.jpg"))
    assert next(entries) == ((Item("a.jpg"), None), True)
    assert next(entries)[0][0] is None
    arrived.extend((Item("c.jpg"), Item("b.jpg")))
    assert [next(entries) for _ in range(3)] == [
        ((Item("b.jpg"), None), False),
        ((Item("c.jpg"), None), True),
        ((None, None), True),
    ]
