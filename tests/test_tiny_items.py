"""What a run leaves out to be fast for each item must not change what it finds."""

from __future__ import annotations

from typing import Any

import pytest

from imageloom.codecs import segments
from imageloom.codecs.segments import COM
from imageloom.driver.namefilter import NameFilter
from imageloom.driver.window import Window
from imageloom.model import Item, Limits, Recipe, Result, Task, Work
from jpegs import exif_segment, inserted, jpeg, segment


def test_a_filter_finds_each_name_that_was_added() -> None:
    names = NameFilter()
    assert not names.may_have("1.jpg")
    for number in range(1000):
        names.add(f"{number}.jpg")
    assert all(names.may_have(f"{number}.jpg") for number in range(1000))
    assert sum(names.may_have(f"{number}.png") for number in range(1000)) < 10


@pytest.mark.parametrize(
    "options", [{}, {"optimize": True}, {"progressive": True}, {"restart_marker_rows": 1}]
)
def test_tables_of_usual_lengths_are_skipped_and_nothing_else(options: dict[str, Any]) -> None:
    data = jpeg(**options)
    every, fewer = list(segments.walk(data)), list(segments.walk(data, tables=False))
    assert [one for one in every if one in fewer] == fewer
    assert {marker for marker, *_ in every if marker not in dict.fromkeys(one[0] for one in fewer)} <= {
        0xDB,
        0xC4,
        0xDD,
    }
    assert segments.is_bare(data)


@pytest.mark.parametrize(
    "data",
    [
        inserted(jpeg(), segment(COM, b"a comment")),
        inserted(jpeg(), exif_segment(6)),
        jpeg() + b"behind",
        jpeg() + jpeg(),
        jpeg()[:-2],
        jpeg()[:200],
        b"\xff\xd8\xff",
    ],
)
def test_a_file_with_more_than_an_image_is_not_bare(data: bytes) -> None:
    assert not segments.is_bare(data)


def test_a_task_wakes_the_driver_once_for_results_that_wait() -> None:
    woken: list[None] = []
    window = Window(1 << 30, by_items=False, wake=lambda: woken.append(None))
    work = tuple(Work(Item(f"{number}.jpg"), (f"{number}.jpg",), number) for number in range(3))
    flight = window.add(Task(1, "1", "/in", "/out", Recipe(()), Limits(), work), 0)
    for place, one in enumerate(work[:2]):
        flight.add_result(place, Result(one.item.key))
    assert len(woken) == 1
    assert len(flight.take_arrived()) == 2
    flight.add_result(2, Result(work[2].item.key))
    assert len(woken) == 2
    assert len(flight.take_arrived()) == 1
