"""Ceph's gateway, where creation is atomic: the suite, and clients and runs that race for the same names."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from testservers.ceph import Ceph, is_installed

from imageloom.api import process
from imageloom.testing.stores import Place, StoreTests
from places import Bucket, reach
from program import contents, draw, start

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not is_installed(), reason="Debian's radosgw, ceph-mon and ceph-osd are not installed"
    ),
]
PIPELINE = "resize 64x48 | grayscale"
CLIENTS, KEYS = 12, 60
_numbers = itertools.count()


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    with Ceph(tmp_path_factory.mktemp("ceph")) as ceph:
        yield ceph


@pytest.fixture
def place(ceph: Ceph, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    reach(ceph, monkeypatch)
    return Bucket(ceph, f"bucket{next(_numbers)}")


class TestCeph(StoreTests):
    @pytest.fixture
    def place(self, place: Bucket) -> Place:
        return place


_CLIENT = """
import sys
from imageloom.errors import OutputExists
from imageloom.stores import open_store

store, name = open_store(sys.argv[1]), sys.argv[2]
store.find("none")  # it is connected
print("ready", flush=True)
for line in sys.stdin:
    key = line.strip()
    store.stage("token", f"{name} {key} ".encode() * 1000)
    try:
        store.commit("token", key, name, False)
        print("won", flush=True)
    except OutputExists:
        print("lost", flush=True)
"""


def test_of_clients_that_race_to_create_one_wins_each_name(place: Bucket) -> None:
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", _CLIENT, place.address, f"client {number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for number in range(CLIENTS)
    ]
    winners: dict[str, list[int]] = {}
    try:
        assert answers(clients) == ["ready"] * CLIENTS
        for number in range(KEYS):
            key = f"{number}.jpg"
            for client in clients:
                assert client.stdin
                client.stdin.write(f"{key}\n")
            said = answers(clients)
            assert set(said) == {"won", "lost"}
            winners[key] = [number for number, answer in enumerate(said) if answer == "won"]
    finally:
        for client in clients:
            client.kill()
            client.communicate()
    assert [len(won) for won in winners.values()] == [1] * KEYS
    assert len({number for (number,) in winners.values()}) > 1
    assert place.contents() == {
        key: f"client {number} {key} ".encode() * 1000 for key, (number,) in winners.items()
    }


def answers(clients: list[subprocess.Popen[str]]) -> list[str]:
    """The next line of each."""
    return [client.stdout.readline().strip() for client in clients if client.stdout]


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Two folders with other photos of the same names."""
    for number in range(80):
        draw(tmp_path / f"source{number % 2}" / f"{number // 2}.jpg", number)
    return [tmp_path / "source0", tmp_path / "source1"]


def race(sources: list[Path], sink: str, tmp_path: Path, *flags: str) -> list[dict[str, str]]:
    """Two runs at once, each with a ledger of its own as on two machines: what came of each item, by key."""
    runs = []
    for number, source in enumerate(sources):
        settings = ("--ledger", tmp_path / str(number) / "ledger.db", "-v", "--json", *flags)
        command = ("run", *settings, PIPELINE, source, sink)
        runs.append(start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    try:
        said = [running.communicate(timeout=60) for running in runs]
    finally:
        for running in runs:
            running.kill()
            running.wait()
    assert not any("Traceback" in told for _, told in said)
    events = [[json.loads(line) for line in lines.splitlines()] for lines, _ in said]
    return [{event["item"]: event["event"] for event in of_one if "item" in event} for of_one in events]


def test_two_runs_over_the_same_photos_agree(place: Bucket, sources: list[Path], tmp_path: Path) -> None:
    process(PIPELINE, sources[0], tmp_path / "expected")
    expected = contents(tmp_path / "expected")
    for came in race([sources[0], sources[0]], place.address, tmp_path):
        assert came == dict.fromkeys(expected, "done")
    assert place.contents() == expected


@pytest.mark.parametrize("flag", ["error", "skip"])
def test_of_two_runs_with_the_same_names_one_has_each(
    place: Bucket, sources: list[Path], tmp_path: Path, flag: str
) -> None:
    made = []
    for number, source in enumerate(sources):
        process(PIPELINE, source, tmp_path / f"made{number}")
        made.append(contents(tmp_path / f"made{number}"))
    came = race(sources, place.address, tmp_path, "--if-exists", flag)
    done = [{key for key, event in of_one.items() if event == "done"} for of_one in came]
    assert all(of_one.keys() == made[0].keys() for of_one in came)
    assert sorted([*done[0], *done[1]]) == sorted(made[0])
    assert place.contents() == {key: made[number][key] for number in (0, 1) for key in done[number]}
