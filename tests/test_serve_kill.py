"""The service is killed at random moments, over three flows, and started again: nothing is lost or done twice."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from imageloom.api import process
from program import draw, wait_until
from served import Served

FLOWS = ("a", "b", "c")


@pytest.mark.parametrize(
    ("items", "kills"),
    [(12, 2), pytest.param(3334, 100, marks=(pytest.mark.long, pytest.mark.timeout(3600)))],
)
def test_nothing_is_lost_and_nothing_is_done_twice(items: int, kills: int, tmp_path: Path) -> None:
    chance = random.Random(kills)
    served = Served(tmp_path)
    try:
        first = draw(tmp_path / "photo.jpg", 1, 400, 300).read_bytes()
        second = draw(tmp_path / "other.jpg", 2, 400, 300).read_bytes()
        for name in FLOWS:
            source = served.write(name, when="watched" if name == "c" else "once")
            for number in range(items):
                (source / f"{number:04}.jpg").write_bytes(second if number % 2 else first)
            (source / "bad.jpg").write_bytes(b"no image")
        _call(served, "POST", "flows/a/start")
        _call(served, "POST", "flows/b/start")
        wait_until(lambda: len(_call(served, "GET", "jobs")["jobs"]) == len(FLOWS))
        number_of = {job["flow"]: job["id"] for job in _call(served, "GET", "jobs")["jobs"]}
        paused = ""
        for turn in range(kills):
            time.sleep(chance.uniform(0.0, 1.0))  # the moment is drawn: nothing is waited for
            if turn == kills // 2:
                paused = "b"
                _call(served, "POST", f"jobs/{number_of['b']}/pause")
            served.end(kill=True)
            served.begin()
            if paused:
                wait_until(
                    lambda: _call(served, "GET", f"jobs/{number_of['b']}")["state"] in ("paused", "done")
                )
        if _call(served, "GET", f"jobs/{number_of['b']}")["state"] == "paused":
            _call(served, "POST", f"jobs/{number_of['b']}/resume")
        for name in FLOWS:
            id = number_of[name]
            wait_until(lambda id=id: _settled(served, id, items), 900 if items > 100 else 60)  # type: ignore[misc]
    finally:
        served.end()
    process("resize 50%", tmp_path / "photo.jpg", tmp_path / "one")
    process("resize 50%", tmp_path / "other.jpg", tmp_path / "one")
    expected = [(tmp_path / "one" / name).read_bytes() for name in ("photo.jpg", "other.jpg")]
    for name in FLOWS:
        found = {path.name: path.read_bytes() for path in (served.root / f"out-{name}").glob("*.jpg")}
        assert found == {f"{number:04}.jpg": expected[number % 2] for number in range(items)}
        assert [path.name for path in (served.root / f"out-{name}").iterdir() if path.name[0] == "."] == []
    with closing(sqlite3.connect(tmp_path / "home" / "ledger.db")) as ledger, ledger:
        done = ledger.execute("SELECT COUNT(*) FROM items WHERE state = 'done'").fetchone()[0]
    assert done == len(FLOWS) * items, "each item is done once in the history"


def _settled(served: Served, id: int, items: int) -> bool:
    job = _call(served, "GET", f"jobs/{id}")
    assert job["done"] <= items
    return (job["done"], job["failed"]) == (items, 1) and (job["flow"] == "c" or job["state"] == "done")


def _call(served: Served, method: str, path: str) -> Any:
    headers = {"Authorization": f"Bearer {served.token('operator')}"}
    answer = httpx.request(method, f"{served.url}api/v1/{path}", headers=headers, timeout=30)
    assert answer.status_code in (200, 409), answer.text
    return answer.json()
