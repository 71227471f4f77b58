"""The board of an engine: deliveries, losses, suspects, and results that come late."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageloom.errors import WorkerLost
from imageloom.model import Failure, Item, Limits, Output, Recipe, Result, Task, Times, Work
from imageloom.scheduling.board import MOST_SUSPECTS, Board
from imageloom.worker.message import Message

LOST = Failure("WorkerLost", "its worker died", transient=True)


def task(number: int, *keys: str, attempt: int = 1) -> Task:
    work = tuple(Work(Item(key), (key,), place, attempt) for place, key in enumerate(keys))
    return Task(number, "1", "in", "out", Recipe((Output(()),)), Limits(), work)


def done(delivery: Task, place: int) -> Message:
    key = delivery.work[place].item.key
    return Message(delivery.id, place, "w", Result(key, times=Times(decode=0.1)))


def keys(delivery: Task | None) -> list[str]:
    assert delivery is not None
    return [work.item.key for work in delivery.work]


def test_results_make_the_outcome_in_the_tasks_order() -> None:
    board: Board[str] = Board()
    future = board.submit(task(7, "a", "b"))
    delivery = board.take("w")
    assert delivery is not None
    assert board.take("w") is None, "one at a time"
    assert board.accept("w", done(delivery, 0))
    assert not future.done()
    assert board.accept("w", done(delivery, 1))
    outcome = future.result(0)
    assert (outcome.task, [r.key for r in outcome.results]) == (7, ["a", "b"])
    assert board.is_idle


def test_a_lost_worker_fails_what_it_had_in_hand_and_others_do_the_rest() -> None:
    board: Board[str] = Board()
    future = board.submit(task(1, "a", "b", "c"))
    first = board.take("dies")
    assert first is not None
    board.accept("dies", done(first, 0))
    board.lose("dies", LOST)
    second = board.take("lives")
    assert keys(second) == ["c"]
    assert second is not None
    assert not board.accept("dies", done(first, 1)), "it speaks too late"
    assert not board.accept("lives", done(first, 1)), "that delivery was not its"
    assert board.accept("lives", done(second, 0))
    assert [r.failure for r in future.result(0).results] == [None, LOST, None]


def test_what_comes_twice_is_taken_once() -> None:
    board: Board[str] = Board()
    future = board.submit(task(1, "a", "b"))
    delivery = board.take("w")
    assert delivery is not None
    assert board.accept("w", done(delivery, 0))
    assert not board.accept("w", done(delivery, 0))
    assert board.accept("w", done(delivery, 1))
    assert not board.accept("w", done(delivery, 1))
    assert [r.key for r in future.result(0).results] == ["a", "b"]


def test_a_worker_that_leaves_on_its_own_costs_no_attempt() -> None:
    board: Board[str] = Board()
    future = board.submit(task(1, "a", "b"))
    board.take("leaves")
    board.hand_back("leaves")
    again = board.take("stays")
    assert keys(again) == ["a", "b"]
    assert again is not None
    for place in range(2):
        assert board.accept("stays", done(again, place))
    assert not any(r.failure for r in future.result(0).results)


def test_suspects_wait_and_have_their_worker_alone() -> None:
    board: Board[str] = Board()
    board.submit(task(1, "suspect", attempt=2))
    board.submit(task(2, "fresh"))
    fresh = board.take("w", room=2)
    assert keys(fresh) == ["fresh"]
    assert board.take("v", room=2) is None, "others are under way"
    assert fresh is not None
    assert board.accept("w", done(fresh, 0))
    assert keys(board.take("v", room=2)) == ["suspect"]
    board.submit(task(3, "later"))
    assert not board.has_room("v", 2), "it is on a suspect"
    assert keys(board.take("w", room=2)) == ["later"]


def test_a_few_suspects_that_waited_long_do_not_wait_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageloom.scheduling.board.LONGEST_WAIT", -1.0)  # all have waited longer
    board: Board[str] = Board()
    for number in range(2 * MOST_SUSPECTS):
        board.submit(task(number, f"suspect {number}", attempt=2))
    board.submit(task(100, "fresh"))
    taken = [board.take(f"w{number}") for number in range(MOST_SUSPECTS + 2)]
    assert [keys(one)[0].split()[0] for one in taken[:-1]] == ["suspect"] * MOST_SUSPECTS + ["fresh"]
    assert taken[-1] is None, "they may hang again, and take all workers"


def test_the_same_task_may_come_back_to_a_slow_worker() -> None:
    board: Board[str] = Board()
    future = board.submit(task(1, "a", "b"))
    first = board.take("slow", room=2)
    board.part("slow")
    second = board.take("slow", room=2)
    assert first is not None
    assert second is not None
    assert keys(second) == ["b"]
    assert board.accept("slow", done(second, 0))
    assert board.accept("slow", done(first, 0))
    assert not board.accept("slow", done(first, 1)), "it was given again"
    assert [r.key for r in future.result(0).results] == ["a", "b"]


def test_what_is_waiting_can_be_cancelled_and_what_is_begun_cannot() -> None:
    board: Board[str] = Board()
    begun, waiting = board.submit(task(1, "a")), board.submit(task(2, "b"))
    delivery = board.take("w")
    board.cancel()
    assert waiting.cancelled()
    assert delivery is not None
    assert board.accept("w", done(delivery, 0))
    assert begun.done()
    assert board.take("w") is None


@given(
    st.lists(st.sampled_from(["take", "result", "lose", "leave", "part", "echo"]), max_size=200), st.randoms()
)
def test_every_item_comes_to_one_end_whatever_happens(events: list[str], random: Random) -> None:
    """Workers come, die, leave and repeat themselves; afterwards one good worker ends what is left."""
    board: Board[int] = Board()
    futures = [board.submit(task(n, *(f"{n}-{i}" for i in range(4)))) for n in range(5)]
    hands: dict[int, list[tuple[Task, int]]] = {worker: [] for worker in range(3)}
    said: list[tuple[int, Message]] = []

    def speak(worker: int) -> None:
        if hands[worker]:
            delivery, place = hands[worker].pop(0)
            said.append((worker, done(delivery, place)))
            board.accept(*said[-1])

    for event in events:
        worker = random.randrange(3)
        if event == "take" and (delivery := board.take(worker)):
            hands[worker] = [(delivery, place) for place in range(len(delivery.work))]
        elif event == "result":
            speak(worker)
        elif event == "lose":
            board.lose(worker, LOST)
            if random.random() < 0.5:
                hands[worker] = []  # dead; else it goes on, unheard
        elif event == "leave":
            board.hand_back(worker)
        elif event == "part":
            board.part(worker)
        elif said:
            assert not board.accept(*random.choice(said)), "a result is taken once"
    for worker in range(3):
        board.hand_back(worker)
    while delivery := board.take(9):
        for place in range(len(delivery.work)):
            assert board.accept(9, done(delivery, place))
    assert board.is_idle
    for n, future in enumerate(futures):
        results = future.result(0).results
        assert [r.key for r in results] == [f"{n}-{i}" for i in range(4)]


def test_a_task_without_items_is_done_when_its_worker_says_so() -> None:
    board: Board[str] = Board()
    future = board.submit(task(1))
    first = board.take("dies")
    assert first is not None
    board.lose("dies", LOST)
    second = board.take("lives")
    assert second is not None
    board.finish("dies", first.id)
    assert not future.done()
    board.finish("lives", second.id, "lives")
    outcome = future.result(0)
    assert (outcome.worker, outcome.results) == ("lives", ())
    assert board.is_idle


def test_one_delivery_of_several_is_handed_back() -> None:
    board: Board[str] = Board()
    board.submit(task(1, "a", "b"))
    board.submit(task(2, "c"))
    first, second = board.take("w", 2), board.take("w", 2)
    assert first is not None
    assert second is not None
    board.accept("w", done(first, 0))
    board.finish("w", first.id)
    assert board.deliveries("w") == {second.id}
    assert keys(board.take("other")) == ["b"]


def test_who_parts_from_a_slow_worker_knows_the_deliveries() -> None:
    board: Board[str] = Board()
    board.submit(task(1, "a", "b", "c"))
    slow = board.take("slow")
    assert slow is not None
    assert board.part("slow") == [slow.id]
    assert board.part("slow") == []
    assert keys(board.take("other")) == ["b", "c"]


def test_what_is_abandoned_comes_to_an_end() -> None:
    board: Board[str] = Board()
    held, waiting = board.submit(task(1, "a")), board.submit(task(2, "b"))
    delivery = board.take("w")
    assert delivery is not None
    board.abandon("it is over")
    assert waiting.cancelled()
    with pytest.raises(WorkerLost, match="it is over"):
        held.result(0)
    assert not board.accept("w", done(delivery, 0))
