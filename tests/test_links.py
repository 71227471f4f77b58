"""Links in a source: all are followed, those that stay inside, or none; the others are items that fail by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from imageloom.api import process
from imageloom.driver.run import Driver
from imageloom.driver.watch import Watched
from imageloom.engines import Settings, open_engine
from imageloom.model import Job, Links, Output, Recipe
from imageloom.records.events import Event, Failed, Listener, Planned, Skipped
from imageloom.records.ledger import Ledger
from program import contents, draw, imageloom
from watching import Watching

INSIDE = ("absolute.jpg", "chain.jpg", "relative.jpg", "round.jpg")
OUT = ("etc.jpg", "out.jpg")
NEVER = ("broken.jpg", "folder.jpg", "loop.jpg")
FILES = ("a/real.jpg", "real.jpg")
PIPELINE = "resize 16x16"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder that strangers may have put links into."""
    tree = tmp_path / "tree"
    draw(tree / "real.jpg", 1)
    draw(tree / "a" / "real.jpg", 2)
    draw(tmp_path / "secret" / "secret.jpg", 3)
    (tmp_path / "alias").symlink_to("tree")
    for name, target in {
        "relative.jpg": "a/real.jpg",
        "absolute.jpg": f"{tree}/a/real.jpg",
        "chain.jpg": "relative.jpg",
        "round.jpg": "../alias/real.jpg",
        "out.jpg": "../secret/secret.jpg",
        "etc.jpg": f"{tmp_path}/secret/secret.jpg",
        "broken.jpg": "nothing.jpg",
        "loop.jpg": "loop.jpg",
        "folder.jpg": "a",
    }.items():
        (tree / name).symlink_to(target)
    return tree


def expected(links: str) -> list[str]:
    followed = {"follow": (*INSIDE, *OUT), "inside": INSIDE, "refuse": ()}[links]
    return sorted((*FILES, *followed))


def failed(text: str) -> dict[str, str]:
    lines = [line.removeprefix("failed: ") for line in text.splitlines() if line.startswith("failed: ")]
    return dict(line.split(": ", 1) for line in lines)


@pytest.mark.parametrize("tile", ["never", "always"])
@pytest.mark.parametrize("links", ["follow", "inside", "refuse"])
def test_a_run_follows_what_it_is_told_to(tree: Path, out: Path, links: str, tile: str) -> None:
    flags = () if links == "follow" else ("--links", links)  # it is the default
    ran = imageloom("run", PIPELINE, tree, out, *flags, "--tile", tile, "--engine", "serial")
    assert ran.returncode == 1
    assert sorted(contents(out)) == expected(links)
    reasons = failed(ran.stderr)
    assert sorted(reasons) == sorted({*INSIDE, *OUT, *NEVER} - set(expected(links)))
    if links != "follow":
        assert all("--links" in reasons[name] for name in OUT), reasons


@pytest.mark.parametrize("links", ["follow", "inside"])
@pytest.mark.parametrize("engine", ["processes", "zeromq", "redis", "nodes", "pipeline"])
def test_workers_follow_what_their_run_follows(tree: Path, out: Path, engine: str, links: str) -> None:
    """The job's workers keep to its source, whose links may lead out of it only where the run follows them."""
    tile = "always" if engine == "zeromq" else "auto"
    flags = ("--links", links, "--engine", engine, "-j", "1", "--tile", tile)
    ran = imageloom("run", PIPELINE, tree, out, *flags)
    assert sorted(contents(out)) == expected(links), ran.stderr


@pytest.mark.parametrize("links", ["inside", "refuse"])
def test_one_file_that_is_a_link(tree: Path, out: Path, links: str) -> None:
    ran = imageloom("run", PIPELINE, tree / "out.jpg", out, "--links", links)
    assert ran.returncode == 1
    assert "--links" in failed(ran.stderr)["out.jpg"]


@pytest.mark.parametrize(
    ("links", "done"), [(None, INSIDE), ("follow", (*INSIDE, *OUT)), ("inside", INSIDE), ("refuse", ())]
)
def test_a_watch_keeps_inside_by_itself(
    tree: Path, out: Path, links: str | None, done: tuple[str, ...]
) -> None:
    flags = ("--links", links) if links else ()
    with Watching(PIPELINE, tree, out, "--until-idle", "0", *flags) as watch:
        assert watch.code() == 1
        assert sorted(watch.items("done")) == sorted((*FILES, *done))
        assert {*INSIDE, *OUT, *NEVER} - set(done) - {"folder.jpg"} <= set(watch.items("failed"))
    assert sorted(contents(out)) == sorted((*FILES, *done))


def test_plan_and_look_take_it_too(tree: Path, tmp_path: Path) -> None:
    for links in ("inside", "refuse"):
        plan = imageloom("plan", PIPELINE, tree / "out.jpg", "--links", links)
        assert plan.returncode == 1
        assert "--links" in plan.stderr
    assert imageloom("plan", PIPELINE, tree / "relative.jpg", "--links", "inside").returncode == 0
    assert imageloom("plan", PIPELINE, tree / "out.jpg").returncode == 0
    looked = imageloom("look", tree / "out.jpg", PIPELINE, "--links", "inside", "-o", tmp_path / "l.png")
    assert looked.returncode == 3
    assert imageloom("look", tree / "out.jpg", PIPELINE, "-o", tmp_path / "l.png").returncode == 0


# What is swapped while it is worked on


def swap(path: Path, target: Path) -> None:
    """Put a link in the place of a file, to one of the same size and time: only the link tells them apart."""
    planned = path.stat()
    target.write_bytes(target.read_bytes().ljust(planned.st_size, b"\0")[: planned.st_size])
    os.utime(target, ns=(planned.st_mtime_ns, planned.st_mtime_ns))
    link = path.with_name(".link")
    link.symlink_to(target)
    link.rename(path)


@pytest.mark.parametrize("links", ["inside", "refuse"])
@pytest.mark.parametrize("tile", ["never", "always"])
@pytest.mark.parametrize("source", ["run", "watch"])
def test_a_link_that_is_swapped_in_after_planning_is_not_read(
    tmp_path: Path, out: Path, links: Links, tile: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageloom.driver.window.FIRST_PAUSE", 0.01)
    photo, secret = draw(tmp_path / "in" / "a.jpg", 1), draw(tmp_path / "secret.jpg", 2, 60, 45)
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if isinstance(event, Planned):
            swap(photo, secret)

    job = Job(str(photo.parent), str(out), Recipe((Output(()),)), tile=tile, links=links)  # type: ignore[arg-type]
    watched = Watched(job.source, until_idle=0, links=links) if source == "watch" else None
    listeners: list[Listener] = [listen, watched] if watched else [listen]
    with closing(open_engine("threads", Settings(1))) as engine, Ledger(tmp_path / "ledger.db") as ledger:
        Driver(job, engine, ledger, "threads", listeners, watched).run()
    assert contents(out) == {}
    reasons = [e.result.failure.message for e in events if isinstance(e, Failed) and e.result.failure]
    skipped = [event.reason for event in events if isinstance(event, Skipped)]
    assert reasons or skipped
    assert set(skipped) <= {"changed meanwhile"}, "a watch says so when it looks again"
    assert all("--links" in reason or "leads out" in reason for reason in reasons), reasons


def test_a_run_that_follows_reads_the_link_that_it_planned(tmp_path: Path, out: Path) -> None:
    """A link is another file when it leads elsewhere."""
    one, two = draw(tmp_path / "1.jpg", 1), draw(tmp_path / "2.jpg", 2, 60, 45)
    link = tmp_path / "in" / "a.jpg"
    link.parent.mkdir()
    link.symlink_to(one)

    def turn(event: Event) -> None:
        if isinstance(event, Planned):
            link.unlink()
            link.symlink_to(two)

    summary = process(PIPELINE, link.parent, out, engine="serial", listeners=[turn])
    assert (summary.done, summary.failed) == (0, 1)


# A server


def test_a_server_follows_no_link_out_of_a_source(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("grpc")
    from imageloom.engines.nodes.config import Credentials
    from imageloom.errors import StorageError
    from imageloom.service import client as client_module
    from imageloom.service.client import Client
    from imageloom.service.messages import to_request
    from service import site

    def follows(job: Job, id: str, detached: bool) -> Any:
        request = to_request(job, id, detached)
        request.links = "follow"
        return request

    (tmp_path / "state").mkdir()
    with site(tmp_path, tmp_path / "state") as made:
        server = made.server("--nodes", made.nodes_file(made.node().address))
        ran = made.submit(server, PIPELINE, tree, tmp_path / "out")
        assert ran.returncode == 1, ran.stderr
        assert sorted(contents(tmp_path / "out")) == expected("inside")
        ran = made.submit(server, PIPELINE, tree, tmp_path / "refused", "--links", "refuse")
        assert sorted(contents(tmp_path / "refused")) == expected("refuse")
        job = Job(str(tree), str(tmp_path / "lies"), Recipe((Output(()),)), links="follow")
        with closing(Client(server.address, Credentials())) as client:
            client.submit(job)
            assert sorted(contents(tmp_path / "lies")) == expected("inside"), (
                "a client of today asks for no more"
            )
            shutil.rmtree(tmp_path / "lies")
            monkeypatch.setattr(client_module, "to_request", follows)
            with pytest.raises(StorageError, match="does not follow links"):
                client.submit(job)
        assert not (tmp_path / "lies").exists()


def test_a_file_is_opened_once_other_threads_have_closed_theirs(tmp_path: Path) -> None:
    program = """
import os, resource, sys, threading
from imageloom.system.beneath import READ, open_beneath
os.close(open_beneath(sys.argv[1], READ, ()))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
asked = threading.Event()
def release():
    asked.wait()
    for file in held:
        os.close(file)
thread = threading.Thread(target=release)
thread.start()
threading.Timer(0.2, asked.set).start()
print(os.read(open_beneath(sys.argv[1], READ, ()), 5), flush=True)
"""
    (tmp_path / "a.txt").write_bytes(b"there")
    command = [sys.executable, "-c", program, str(tmp_path / "a.txt")]
    assert subprocess.run(command, check=True, capture_output=True, timeout=60).stdout == b"b'there'\n"
