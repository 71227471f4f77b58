"""A decoder that hangs in the driver's process: its thread is abandoned, and the run goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imageloom.codecs.jpeg import Jpeg
from imageloom.model import Header, Pixels
from imageloom.records.events import Retried
from imageloom.worker.watchdog import Watchdog
from program import Run, contents, draw, wait_until

HANGS = 77
"""Width of the images on which the decoder hangs, in this process."""


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Decoders hang until this is set."""
    decode, event = Jpeg.decode, threading.Event()

    def hanging(codec: Jpeg, data: bytes, header: Header, **options: Any) -> Pixels:
        if header.frame.width == HANGS:
            event.wait()
        return decode(codec, data, header, **options)

    monkeypatch.setattr(Jpeg, "decode", hanging)
    yield event
    event.set()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number in range(6):
        draw(tmp_path / "in" / f"{number}.jpg", number, HANGS if number == 2 else 60, 40)
    return tmp_path / "in"


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_next_attempt_is_made_in_another_process(
    jobs: int, source: Path, tmp_path: Path, released: threading.Event
) -> None:
    out, before = tmp_path / "out", threading.active_count()
    run = Run("invert", source, out, engine="threads", jobs=jobs, timeout=0.5)
    assert run.numbers == (6, 0, 0)
    retried = [event.result for event in run.events if isinstance(event, Retried)]
    assert [(result.key, result.failure and result.failure.kind) for result in retried] == [
        ("2.jpg", "ItemTimeout")
    ]
    assert retried[0].failure
    assert "0.5 s (--timeout)" in retried[0].failure.message
    released.set()
    wait_until(lambda: threading.active_count() <= before)  # the abandoned thread ends too
    expected = tmp_path / "expected"
    Run("invert", source, expected, engine="serial")
    assert contents(out) == contents(expected)


def test_what_ends_in_time_is_not_late() -> None:
    called: list[str] = []
    watchdog = Watchdog(0.2)
    try:
        assert watchdog.end(watchdog.begin(lambda: called.append("in time")))
        number = watchdog.begin(lambda: called.append("late"))
        wait_until(lambda: called)
        assert not watchdog.end(number)
        assert called == ["late"]
    finally:
        watchdog.close()
    began = time.monotonic()
    with_long_limit = Watchdog(600.0)
    with_long_limit.close()
    assert time.monotonic() - began < 4.0
