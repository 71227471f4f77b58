"""A worker opens what lies below its roots, and nothing else, however it is addressed and whatever is swapped."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import tifffile
from msgspec.structs import replace

from guests import keys
from imageloom.api import process
from imageloom.bench.samples import draw_photo
from imageloom.engines import Settings, open_engine
from imageloom.engines.workers import guarded
from imageloom.errors import TaskRefused, UnreadableItem
from imageloom.model import Box, Item, Job, Limits, Output, Part, Recipe, Task, Work
from imageloom.records.events import Event, Failed, Planned
from imageloom.stores.local import LocalStore
from imageloom.system import beneath
from imageloom.worker.guard import Guard
from program import COMMAND, contents, draw, free_port, imageloom

REFUSED = "TaskRefused"


def item(root: Path, key: str) -> Item:
    found = os.stat(root / key)
    return Item(key, found.st_size, found.st_mtime_ns)


def task(source: object, sink: object, *items: Item, **changes: Any) -> Task:
    works = tuple(Work(one, (one.key,), number) for number, one in enumerate(items))
    made = Task(1, "1", str(source), str(sink), Recipe((Output(()),)), Limits(), works)
    return replace(made, **changes)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root of a worker; beside it lies what is none of its business."""
    draw(tmp_path / "root" / "in" / "a.jpg", 1)
    draw(tmp_path / "secret" / "a.jpg", 2)
    draw(tmp_path / "rootless" / "a.jpg", 3)
    (tmp_path / "root" / "out" / ".imageloom").mkdir(parents=True)
    return tmp_path / "root"


# What a task says


@pytest.mark.parametrize("job", ["", "../../x", "a/b", "a\0b", "1\n", "x" * 65, "日本", ".", "1 2", "%2e%2e"])
def test_an_id_of_a_job_is_no_path(root: Path, job: str) -> None:
    with pytest.raises(TaskRefused, match="is not an id of a job"):
        Guard((str(root),)).bounded(task(root / "in", root / "out", job=job))


@pytest.mark.parametrize("name", ["", "/etc/passwd", "..", "../a", "a/../../b", "a/..", "./a", "a\0.jpg"])
def test_keys_and_names_lie_below_their_folders(root: Path, name: str) -> None:
    asked = task(root / "in", root / "out")
    guard = Guard((str(root),))
    for work in (Work(Item(name), ("a.jpg",), 1), Work(Item("a.jpg"), ("b.jpg", name), 1)):
        with pytest.raises(TaskRefused):
            guard.bounded(replace(asked, work=(work,)))
    if name:
        with pytest.raises(TaskRefused):
            guard.bounded(replace(asked, recipe=Recipe((Output((), folder=name),))))


@pytest.mark.parametrize(("number", "attempt"), [(-1, 1), (1, -1), (1 << 63, 1), (1, 1 << 60)])
def test_numbers_are_bounded(root: Path, number: int, attempt: int) -> None:
    work = Work(Item("a.jpg"), ("a.jpg",), number, attempt)
    with pytest.raises(TaskRefused, match="out of range"):
        Guard((str(root),)).bounded(task(root / "in", root / "out", work=(work,)))


@pytest.mark.parametrize(
    "address",
    [
        "file://{root}/%2e%2e/secret",
        "file://{root}/%2E%2E/secret",
        "file://{root}/..%2fsecret",
        "file://{root}/in%00",
        "file://{secret}",
        "FILE://{root}/in",
        "local://{root}/in",
        "{root}/../secret",
        "{root}/in/../../secret",
        "{root}less",
        "in",
        "",
        "s3://bucket/a/../b",
        "s3://bucket/a/%2e%2e/b",
        "s3://bucket/a/..%2Fb",
        "s3://bucket//a/in",
        "s3://bucket/a//in",
        "s3://Bucket/a/in",
        "S3://bucket/a/in",
        "s3://bucket/ab",
        "s3://bucket/a/\x01",
        "s3://bucket/a/x::file:///etc",
        "zip://{root}/in::s3://bucket/a",
        "http://169.254.169.254/latest",
        "memory:raster",
    ],
)
def test_addresses_that_mean_something_else_are_refused(root: Path, address: str) -> None:
    guard = Guard((str(root), "s3://bucket/a"))
    made = address.format(root=root, secret=root.parent / "secret")
    for asked in (task(made, root / "out"), task(root / "in", made)):
        with pytest.raises(TaskRefused, match="--root"):
            guard.bounded(asked)


@pytest.mark.parametrize("field", ["reads", "writes", "file", "staging", "folder"])
@pytest.mark.parametrize(
    "path", ["{secret}/a.jpg", "{root}/../secret/a.jpg", "a.jpg", "memory:1", "{root}/a\0"]
)
def test_paths_of_parts_are_refused(root: Path, field: str, path: str) -> None:
    made = path.format(root=root, secret=root.parent / "secret")
    part = replace(Part(0, 0, 0, Box(0, 0, 1, 1)), **{field: made})
    with pytest.raises(TaskRefused, match="--root"):
        Guard((str(root),)).bounded(task(root / "in", root / "out", part=part))


def test_what_is_written_in_another_way_is_the_same_place(root: Path) -> None:
    (root.parent / "alias").symlink_to(root)
    draw(root / "in here" / "a.jpg")
    for own in (root, root.parent / "alias", f"file://{quote(str(root))}"):
        for source in (root / "in here", root.parent / "alias" / "in here", f"file://{root}/in%20here"):
            asked = task(source, root / "out", item(root, "in here/a.jpg"))
            works = (Work(Item("a.jpg"), ("a.jpg",), 1),)
            (done,) = guarded(replace(asked, work=works), Guard((str(own),)))
            assert done.failure is None, (own, source, done)


def test_a_jobs_own_workers_have_its_own_places(root: Path, tmp_path: Path) -> None:
    job = Job(str(root / "in"), str(root / "out"), Recipe((Output(()),), operators=("/o.py",)), scratch="/s")
    assert Guard.of(job) == Guard((str(root / "in"), str(root / "out")), ("/o.py",), "follow", "/s")
    assert Guard.of(replace(job, source=str(root / "in" / "a.jpg"))).roots[0] == str(root / "in")
    assert Guard.of(replace(job, source="s3://b/in/a.jpg")).roots[0] == "s3://b/in"
    assert Guard.of(replace(job, source="s3://b/in/")).roots[0] == "s3://b/in"


# What is swapped after it was looked at


@pytest.fixture(params=["openat2", "part by part"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "openat2":
        monkeypatch.setattr(beneath, "_opener", lambda: beneath._open_parts)
    return str(request.param)


@pytest.mark.parametrize("what", ["file", "folder", "source", "staging", "raster"])
def test_what_is_swapped_for_a_link_is_not_opened(
    way: str, root: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is passed before the link is there."""
    secret = root.parent / "secret"
    draw(root / "in" / "sub" / "a.jpg", 1)
    asked = task(root / "in", root / "out", item(root / "in", "sub/a.jpg"))
    if what == "raster":
        (root / "r").write_bytes(bytes(64))
        part = Part(0, 0, 0, Box(0, 0, 1, 1), writes=str(root / "r"), file=str(root / "in" / "sub" / "a.jpg"))
        asked = replace(asked, part=part)
    guard = Guard((str(root),))
    bounded = guard.bounded(asked)
    monkeypatch.setattr(Guard, "bounded", lambda self, task: bounded)
    taken = {
        "file": root / "in" / "sub" / "a.jpg",
        "folder": root / "in" / "sub",
        "source": root / "in",
        "staging": root / "out" / ".imageloom",
        "raster": root / "r",
    }[what]
    taken.rename(taken.with_name("was"))
    taken.symlink_to(secret / "a.jpg" if taken.name in ("a.jpg", "r") else secret)
    before = contents(secret)
    (result,) = guarded(asked, guard)
    assert result.failure, what
    assert contents(secret) == before
    assert not any((root / "out").rglob("*.jpg"))


def test_no_race_leads_out(way: str, root: Path) -> None:
    """Links are swapped in and out all the time; each read gives the file inside or fails."""
    inside, outside = root / "in" / "a.jpg", root.parent / "secret" / "a.jpg"
    data, secret = inside.read_bytes(), outside.read_bytes()
    store = LocalStore(str(root / "in"), "inside", (str(root),))
    link, kept, ended = root / "in" / "link", root / "in" / "kept", threading.Event()

    def swap() -> None:
        while not ended.is_set():
            link.symlink_to(outside)
            link.rename(inside)
            kept.write_bytes(data)
            kept.rename(inside)

    swapper = threading.Thread(target=swap)
    swapper.start()
    found = {"read": 0, "refused": 0}
    try:
        until = time.monotonic() + 20
        while min(found.values()) < 50 and time.monotonic() < until:
            try:
                assert store.read("a.jpg", 1 << 20) != secret
                assert store.head("a.jpg", 1 << 20) != secret
                found["read"] += 1
            except UnreadableItem as error:
                found["refused"] += any(why in str(error) for why in ("links", "leads out"))
    finally:
        ended.set()
        swapper.join()
    assert min(found.values()) >= 50, found


def test_a_fifo_in_the_place_of_a_file_does_not_hang(root: Path) -> None:
    asked = task(root / "in", root / "out", item(root / "in", "a.jpg"))
    (root / "in" / "a.jpg").unlink()
    os.mkfifo(root / "in" / "a.jpg")
    (result,) = guarded(asked, Guard((str(root),)))
    assert result.failure
    assert "not a regular file" in result.failure.message


# Who may write to the broker


def lies(root: Path, out: Path, operators: Path) -> list[Task]:
    """Tasks that a run has not asked for, in the order in which they are sent."""
    source, secret = root / "in", root.parent / "secret"
    own = item(source, "a.jpg")
    code = Recipe((Output(()),), operators=(str(operators),))
    return [
        task(source, out, own, recipe=code),
        task(secret, out, item(secret, "a.jpg")),
        task(source, out, replace(item(secret, "a.jpg"), key="../../secret/a.jpg")),
        task(source, secret, own),
        task(f"file://{source}/%2e%2e/%2e%2e/secret", out, item(secret, "a.jpg")),
        task(source, out, own, job="../../../secret/x"),
        task(source, out, work=(Work(own, ("../../secret/b.jpg",), 1),)),
    ]


def test_who_may_write_to_redis_runs_nothing_of_their_own(root: Path, tmp_path: Path, out: Path) -> None:
    """The workers are those that `run -j N --connect` starts itself."""
    redis = pytest.importorskip("redis_servers")
    from imageloom.engines.redis.group import make_groups
    from imageloom.engines.redis.wire import FIELD, STREAMS, VERSION, Delivery, results_key, run_key

    marker, operators = tmp_path / "marker", tmp_path / "evil.py"
    operators.write_text(f"open({str(marker)!r}, 'w').close()\n")
    secret, before = root.parent / "secret", contents(root.parent / "secret")
    for number in range(4):
        draw(root / "in" / f"{number}.jpg", number)
    server = redis.GivenServer(tmp_path / "server")
    try:
        make_groups(server.client, tuple(STREAMS))
        server.client.set(run_key("liar"), 1)
        sent = lies(root, out, operators)
        for number, lie in enumerate(sent):
            delivery = Delivery(VERSION, "liar", 30.0, 30.0, replace(lie, id=number))
            server.client.xadd(STREAMS["worker"], {FIELD: msgspec.msgpack.encode(delivery)})
        flags = ("--engine", "redis", *server.place, "-j", "1")
        ran = imageloom("run", "resize 16x16", root / "in", out, *flags)
        assert ran.returncode == 0, ran.stderr
        said = [fields for _, fields in server.client.xrange(results_key("liar"))]
        answers = [fields[FIELD.encode()] for fields in said if FIELD.encode() in fields]
    finally:
        server.close()
    results = [one["result"] for one in map(msgspec.msgpack.decode, answers) if one.get("result")]
    assert [one["failure"]["kind"] for one in results] == [REFUSED] * len(sent)
    assert not marker.exists()
    assert contents(secret) == before
    assert sorted(contents(out)) == sorted([*(f"{number}.jpg" for number in range(4)), "a.jpg"])


# The same path, another file


PLANNED = "the file differs from the one that was planned"


@contextlib.contextmanager
def elsewhere(shown: Path, place: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A program that sees another folder in the place of one, as on a machine of its own."""
    script = f"mount --bind '{shown}' '{place}' || exit 77; exec \"$@\""
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    program = [*shell, *COMMAND, *map(str, arguments)]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                running.kill()


@pytest.fixture(scope="session")
def can_mount(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = str(tmp_path_factory.mktemp("mount"))
    probe = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", folder]
    try:
        ran = subprocess.run(probe, check=False, capture_output=True, timeout=20)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if ran.returncode:
        pytest.skip(f"no file system may be mounted here: {ran.stderr!r}")


@contextlib.contextmanager
def worker_elsewhere(engine: str, root: Path, shown: Path, state: Path) -> Iterator[list[object]]:
    """A worker that sees other photos; the flags of a run that uses it."""
    place = root / "in"
    if engine == "zeromq":
        address = f"tcp://127.0.0.1:{free_port()}"
        server, client = keys()
        worker = (
            "worker",
            "--engine",
            "zeromq",
            "--connect",
            address,
            "--root",
            root,
            "-j",
            1,
            "--keys",
            client,
        )
        with elsewhere(shown, place, *worker):
            yield ["--engine", "zeromq", "--bind", address, "--keys", server]
    elif engine == "redis":
        server = pytest.importorskip("redis_servers").GivenServer(state / "server")
        try:
            worker = ("worker", "--engine", "redis", *server.place, "--root", root, "-j", 1)
            with elsewhere(shown, place, *worker):
                yield ["--engine", "redis", *server.place, "-j", 0]
        finally:
            server.close()
    else:
        with elsewhere(shown, place, "node", "--root", root, "--limit", 1) as node:
            assert node.stderr
            ready, _, _ = select.select([node.stderr], [], [], 30)
            line = node.stderr.readline() if ready else ""
            assert line.startswith("node "), line
            yield ["--engine", "nodes", "--connect", line.split()[1].rstrip(":")]


@pytest.mark.parametrize("kind", ["photos", "tiles"])
@pytest.mark.parametrize("engine", ["zeromq", "redis", "nodes"])
def test_a_worker_that_sees_another_file_makes_nothing_of_it(
    can_mount: None, engine: str, kind: str, root: Path, tmp_path: Path
) -> None:
    place, shown, out = root / "in", tmp_path / "shown", root / "made"
    flags: list[object] = []
    if kind == "photos":
        for number in range(3):
            draw(place / f"{number}.jpg", number)
            draw(shown / f"{number}.jpg", number + 10)
        shutil.copy2(place / "a.jpg", shown / "a.jpg")
    else:
        (place / "a.jpg").unlink()
        flags = ["--tile", "always", "--metadata", "strip"]
        for folder, seed in ((place, 1), (shown, 2)):
            folder.mkdir(exist_ok=True)
            tifffile.imwrite(folder / "0.tif", draw_photo(seed, 1200, 900), photometric="rgb")
        planned = os.stat(place / "0.tif")
        assert (shown / "0.tif").stat().st_size == planned.st_size, "by its time alone"
    with worker_elsewhere(engine, root, shown, tmp_path) as more:
        ran = imageloom("run", "invert", place, out, *more, *flags)
    assert ran.returncode == 1, ran.stderr
    failed = [line for line in ran.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failed) == (3 if kind == "photos" else 1), ran.stderr
    assert all(PLANNED in line for line in failed), ran.stderr
    assert sorted(contents(out)) == (["a.jpg"] if kind == "photos" else [])


@pytest.mark.parametrize("engine", ["serial", "threads", "processes", "pipeline", "zeromq", "redis", "nodes"])
def test_every_engine_compares_what_it_opened(engine: str, root: Path) -> None:
    now = item(root / "in", "a.jpg")
    others = (
        replace(now, size=now.size + 1),
        replace(now, mtime_ns=now.mtime_ns - 1),
        replace(now, mtime_ns=now.mtime_ns + 10**9),
    )
    with contextlib.closing(open_engine(engine, Settings(1))) as opened:
        asked = task(root / "in", root / "out", now, *others)
        results = opened.submit(asked).result(60).results
    kinds = [result.failure and result.failure.kind for result in results]
    assert kinds == [None, *["UnreadableItem"] * len(others)]
    messages = [result.failure.message for result in results if result.failure]
    assert all(PLANNED in message for message in messages), messages
    assert [f"{what} " in message for what, message in zip(("size", "mtime", "mtime"), messages, strict=True)]


def test_a_file_that_changes_between_plan_and_work_fails_and_is_done_the_next_time(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written down is what was read."""
    monkeypatch.setattr("imageloom.driver.window.FIRST_PAUSE", 0.01)
    source, out = root / "in", tmp_path / "made"

    def change(event: Event) -> None:
        if isinstance(event, Planned) and not out.with_suffix(".changed").exists():
            draw(source / "a.jpg", 9, 300, 200)
            out.with_suffix(".changed").touch()

    events: list[Event] = []
    summary = process("invert", source, out, engine="serial", listeners=[change, events.append])
    assert (summary.done, summary.failed) == (0, 1)
    (failed,) = (event for event in events if isinstance(event, Failed))
    assert failed.result.failure
    assert PLANNED in failed.result.failure.message
    assert process("invert", source, out, engine="serial").done == 1
    assert process("invert", source, out, engine="serial").skipped == 1
