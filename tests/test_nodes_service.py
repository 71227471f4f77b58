"""Clients, a server and nodes as people run them, and what happens when one of them dies."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.engines.nodes.config import Credentials
from imageloom.errors import StorageError
from imageloom.model import Job, Output, Recipe
from imageloom.recipes.pipeline import Pipeline
from imageloom.records.events import Done, Event
from imageloom.records.ledger import Ledger
from imageloom.service.client import Client
from imageloom.stores.names import STAGING
from program import contents, draw, imageloom, start, wait_until
from service import Site, site

COUNT = 12
PIPELINE = "resize 64x48 | grayscale"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nodes") / "photos"
    for number in range(COUNT):
        draw(folder / f"{number}.jpg", number)
    return folder


@pytest.fixture(scope="module")
def expected(photos: Path) -> dict[str, bytes]:
    out = photos.parent / "expected"
    done = imageloom("run", PIPELINE, photos, out, "--engine", "serial", "--ledger", photos.parent / "l.db")
    assert done.returncode == 0, done.stderr
    return contents(out)


@pytest.fixture
def place(photos: Path, tmp_path: Path) -> Iterator[Site]:
    state = tmp_path / "service"
    state.mkdir()
    with site(photos.parent, state) as made:
        yield made


def job(photos: Path, sink: Path) -> Job:
    return Job(str(photos), str(sink), Recipe((Output(Pipeline(PIPELINE).steps),)))


def client_of(address: str, credentials: Credentials = Credentials()) -> Client:  # noqa: B008 frozen
    return Client(address, credentials)


def published(sink: Path) -> dict[str, bytes]:
    """What has its final name; what is staged comes and goes meanwhile."""
    found = {str(path.relative_to(sink)): path for path in sink.rglob("*") if path.suffix}
    return {key: path.read_bytes() for key, path in found.items() if not key.startswith(STAGING)}


def test_a_job_by_the_command_line_and_its_errors(
    place: Site, photos: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    server = place.server()
    node = place.node("--server", server.address)
    sink = place.folder / "line"
    done = place.submit(server, PIPELINE, photos, sink)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{COUNT} of {COUNT} done, 0 failed")
    assert contents(sink) == expected
    again = place.submit(server, PIPELINE, photos, sink)
    assert again.stdout.startswith(f"all {COUNT} are up to date")

    (place.folder / "empty").mkdir()
    for source, code, message in (
        (place.folder / "none", 4, "there is no file or folder"),
        (tmp_path, 4, "is not below a root"),
        (place.folder / "empty", 3, "no image matched"),
    ):
        ran = place.submit(server, PIPELINE, source, place.folder / "errors")
        assert (ran.returncode, message in ran.stderr) == (code, True), ran.stderr
    config = place.folder / "client.yaml"
    config.write_text(f"server: {server.address}\nroot: {place.folder}\n")
    relative = imageloom("submit", PIPELINE, "photos", "relative", "--config", config, "--detach")
    assert relative.returncode == 0, relative.stderr
    followed = imageloom("submit", "--job", relative.stdout.strip(), "--config", config)
    assert followed.returncode == 0, followed.stderr
    assert contents(place.folder / "relative") == expected

    listed = imageloom("jobs", "--server", server.address)
    assert listed.returncode == 0, listed.stderr
    states = dict(line.split()[:2] for line in listed.stdout.splitlines())
    assert states.pop(relative.stdout.strip()) == "done"
    assert set(states.values()) == {"done", "failed"}
    assert f"{COUNT} done, 0 failed, 0 skipped" in listed.stdout
    assert node.leave() == 0
    assert server.leave() == 0


def test_a_server_lists_what_runs(place: Site, photos: Path) -> None:
    node = place.slow_node(0.3)
    server = place.server("--nodes", place.nodes_file(node.address), "--max-running", "1")
    assert "has no jobs" in imageloom("jobs", "--server", server.address).stderr
    client = client_of(server.address)
    first = client.submit(job(photos, place.folder / "first"), detached=True).id
    second = client.submit(job(photos, place.folder / "second"), detached=True).id
    lines = [
        json.loads(line)
        for line in imageloom("jobs", "--server", server.address, "--json").stdout.splitlines()
    ]
    assert [(one["id"], one["state"]) for one in lines] == [(first, "running"), (second, "waiting")]
    assert (lines[1]["source"], lines[1]["pipeline"]) == (str(photos), PIPELINE)
    client.cancel(first)
    client.cancel(second)
    client.close()
    gone = imageloom("jobs", "--server", "127.0.0.1:1")
    assert (gone.returncode, "cannot reach the server 127.0.0.1:1" in gone.stderr) == (4, True)


def test_killed_nodes_and_a_killed_server_cost_no_image(
    place: Site, photos: Path, expected: dict[str, bytes]
) -> None:
    """Amid a job a node dies, then the server, which is started again: the client sees one job to its end."""
    sink = place.folder / "killed"
    doomed = place.slow_node(0.3)
    other = place.slow_node(0.3)
    nodes = place.nodes_file(doomed.address, other.address)
    server = place.server("--nodes", nodes)
    events: list[Event] = []
    receipts: list[pb.JobReceipt] = []
    client = client_of(server.address)

    def submit() -> None:
        receipts.append(client.submit(job(photos, sink), [events.append]))

    thread = threading.Thread(target=submit)
    thread.start()
    wait_until(lambda: len(published(sink)) >= 2 if sink.exists() else False)
    doomed.kill()
    before = len(published(sink))
    wait_until(lambda: len(published(sink)) > before)
    server.kill()
    partly = published(sink)
    assert 2 < len(partly) < COUNT
    assert partly == {key: expected[key] for key in partly}
    place.server("--nodes", nodes, listen=server.address)
    thread.join(30)
    client.close()
    assert [receipt.status for receipt in receipts] == [pb.JOB_SUCCESS]
    assert receipts[0].done + receipts[0].skipped == COUNT
    assert receipts[0].skipped >= before, (
        "what was done before the kill, up to the last round, is not done again"
    )
    assert contents(sink) == expected


def test_a_killed_nodes_items_are_tried_again_and_it_may_come_back(
    place: Site, photos: Path, expected: dict[str, bytes]
) -> None:
    """By a run of its own, without a server: the only node dies, and another one takes its place."""
    sink, ledger = place.folder / "back", place.folder / "back.db"
    node = place.slow_node(0.2)
    running = start(
        "run", PIPELINE, photos, sink, "--engine", "nodes", "--connect", node.address, "--ledger", ledger
    )
    wait_until((sink / STAGING).exists)
    time.sleep(0.1)  # a task may have begun, or not yet
    node.kill()
    place.node("--listen", node.address)
    assert running.wait(60) == 0
    assert contents(sink) == expected
    with Ledger(ledger) as book:
        (record,) = book.jobs()
        attempts = [item.attempts for item in book.items(record.id)]
    assert sorted(set(attempts)) in ([1], [1, 2]), "unreachable before it began is no attempt"
    assert attempts.count(2) <= COUNT


def test_eight_jobs_at_once_from_eight_clients(place: Site, photos: Path, expected: dict[str, bytes]) -> None:
    server = place.server()
    for _ in range(2):
        place.slow_node(0.03, "--server", server.address)

    def submit(number: int) -> pb.JobReceipt:
        client = client_of(server.address)
        try:
            return client.submit(job(photos, place.folder / f"eight{number}"))
        finally:
            client.close()

    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(submit, range(8)))
    assert [(r.status, r.done, r.failed, r.message) for r in receipts] == [(pb.JOB_SUCCESS, COUNT, 0, "")] * 8
    for number in range(8):
        assert contents(place.folder / f"eight{number}") == expected


def test_ctrl_c_cancels_the_job_and_waits_for_its_end(place: Site, photos: Path) -> None:
    server = place.server()
    place.slow_node(1, "--server", server.address)
    sink = place.folder / "interrupted"
    begun = start(
        *("submit", PIPELINE, photos, sink, "--server", server.address),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: any(published(sink)) if sink.exists() else False)
    begun.send_signal(signal.SIGINT)
    summary, said = begun.communicate(timeout=60)
    assert begun.returncode == 130, said
    assert "cancelling: finishing the items in progress" in said
    assert f"interrupted: {len(published(sink))} done" in summary
    with Ledger(place.ledger) as book:
        assert {j.state for j in book.jobs() if j.sink == str(sink)} == {"interrupted"}


def test_a_job_whose_client_is_gone_is_cancelled_unless_it_is_detached(place: Site, photos: Path) -> None:
    server = place.server("--patience", 0.3)
    place.slow_node(0.3, "--server", server.address)
    client = client_of(server.address)
    kept = client.submit(job(photos, place.folder / "kept"), detached=True)
    begun = start("submit", PIPELINE, photos, place.folder / "gone", "--server", server.address, "-q")
    wait_until(lambda: any(published(place.folder / "gone")) if (place.folder / "gone").exists() else False)
    begun.kill()
    begun.wait()
    with Ledger(place.ledger) as book:
        gone = str(place.folder / "gone")
        wait_until(lambda: {j.state for j in book.jobs() if j.sink == gone} == {"interrupted"})
        assert {j.state for j in book.jobs() if j.sink == str(place.folder / "kept")} == {"running"}
    assert 0 < len(contents(place.folder / "gone")) < COUNT
    assert client.cancel(kept.id).id == kept.id
    assert client.follow(kept.id).status == pb.JOB_CANCELLED
    client.close()


def test_a_server_that_leaves_goes_on_with_its_jobs_when_it_is_back(
    place: Site, photos: Path, expected: dict[str, bytes]
) -> None:
    node = place.slow_node(0.1)
    nodes = place.nodes_file(node.address)
    server = place.server("--nodes", nodes)
    client = client_of(server.address)
    sink = place.folder / "left"
    id = client.submit(job(photos, sink), detached=True).id
    wait_until(lambda: len(published(sink)) >= 2 if sink.exists() else False)
    assert server.leave() == 0
    assert 2 <= len(contents(sink)) < COUNT
    place.server("--nodes", nodes, listen=server.address)
    assert client.follow(id).status == pb.JOB_SUCCESS
    client.close()
    assert contents(sink) == expected


def test_a_sink_that_is_in_use_and_a_server_that_is_not_there(place: Site, photos: Path) -> None:
    server = place.server()
    client = client_of(server.address)
    first = client.submit(job(photos, place.folder / "busy"), detached=True)
    with pytest.raises(StorageError, match=r"ABORTED: job \d+ .* is writing into .*busy"):
        client.submit(job(photos, place.folder / "busy"))
    client.cancel(first.id)
    client.close()
    nobody = client_of("127.0.0.1:1")
    with pytest.raises(StorageError, match="cannot reach the server"):
        nobody.submit(job(photos, place.folder / "busy"))
    nobody.close()


def test_what_all_loaded_nodes_reject_fails_clearly_or_falls_back(
    place: Site, photos: Path, expected: dict[str, bytes]
) -> None:
    node = place.node("--load", 1, "--delay", 0, "--acceptance", "optional")
    run = ["run", PIPELINE, photos, place.folder / "rejected", "--engine", "nodes", "--nodes"]
    ledger = ["--ledger", place.folder / "rejected.db"]
    failed = imageloom(*run, place.nodes_file(node.address, more="rejections: 5\n"), *ledger)
    assert failed.returncode == 1
    assert "TaskRejected: workers refused it 5 times" in failed.stderr
    assert f"0 of {COUNT} done, {COUNT} failed" in failed.stdout
    more = "rejections: 5\nfallback: mandatory\n"
    done = imageloom(*run, place.nodes_file(node.address, more=more), *ledger)
    assert done.returncode == 0, done.stderr
    assert contents(place.folder / "rejected") == expected


def test_events_reach_the_client(place: Site, photos: Path) -> None:
    server = place.server()
    node = place.node("--server", server.address)
    client = client_of(server.address)
    events: list[Event] = []
    wanted = replace(job(photos, place.folder / "events"), include=("1*.jpg",))
    receipt = client.submit(wanted, [events.append])
    client.close()
    done = [event for event in events if isinstance(event, Done)]
    assert sorted(e.result.key for e in done) == ["1.jpg", "10.jpg", "11.jpg"]
    assert receipt.done == 3
    assert {e.worker.split("/")[0] for e in done} == {node.address}
    assert all(e.result.times.decode > 0 and e.result.written[0].size > 0 for e in done)
