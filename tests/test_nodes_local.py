"""An item that kills or hangs a node costs nothing but itself, on nodes of a run and on nodes elsewhere."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from imageloom.api import process
from imageloom.bench.samples import draw_photos
from imageloom.records.events import Event, Failed
from imageloom.records.ledger import Ledger
from imageloom.testing.engines import HARMFUL, recipe_of
from service import Program


@pytest.mark.parametrize(
    ("step", "kind", "timeout", "reason"),
    [
        ("crash_on_red", "WorkerLost", 60.0, "killed by SIGSEGV"),
        ("hang_on_red", "ItemTimeout", 1.0, "--timeout"),
    ],
)
def test_harmful_items_fail_alone(
    step: str, kind: str, timeout: float, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageloom.recipes.plan.BATCH_ITEMS", 4)
    photos, out, ledger = tmp_path / "photos", tmp_path / "out", tmp_path / "ledger.db"
    draw_photos(photos, 10)
    red = np.zeros((40, 60, 3), np.uint8)
    red[:, :, 2] = 255
    assert cv2.imwrite(str(photos / "photo-0001b.png"), red)
    events: list[Event] = []
    summary = process(
        recipe_of(f"{step} | resize 32x32", "png"),
        photos,
        out,
        engine="nodes",
        jobs=2,
        timeout=timeout,
        ledger=ledger,
        listeners=[events.append],
    )
    assert (summary.done, summary.failed) == (10, 1)
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.result.failure is not None
    assert (failed.attempt, failed.result.failure.kind) == (3, kind)
    assert reason in failed.result.failure.message
    with Ledger(ledger) as book:
        assert {item.attempts for item in book.items(summary.job, "done")} == {1}
    assert not list(out.glob(".imageloom*"))


def test_an_item_that_hangs_on_a_node_elsewhere_is_ended_there(tmp_path: Path) -> None:
    """Though the node itself would give it ten minutes: its only place is free for the others."""
    photos, out, ledger = tmp_path / "photos", tmp_path / "out", tmp_path / "ledger.db"
    draw_photos(photos, 6)
    red = np.zeros((40, 60, 3), np.uint8)
    red[:, :, 2] = 255
    assert cv2.imwrite(str(photos / "photo-0001b.png"), red)
    node = Program("node", "--root", tmp_path, "--limit", 1, "--operators", HARMFUL)
    began = time.monotonic()
    try:
        summary = process(
            recipe_of("hang_on_red | resize 32x32", "png"),
            photos,
            out,
            engine="nodes",
            connect=node.address,
            timeout=1.0,
            ledger=ledger,
        )
    finally:
        node.kill()
    assert (summary.done, summary.failed) == (6, 1)
    assert time.monotonic() - began < 30
    with Ledger(ledger) as book:
        assert {item.attempts for item in book.items(summary.job, "done")} == {1}
        assert [item.attempts for item in book.items(summary.job, "failed")] == [3]
