"""Engine processes: workers that crash, hang and eat memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import msgspec
import numpy as np
import psutil
import pytest
from msgspec.structs import replace

from imageloom.api import process
from imageloom.bench.samples import draw_photos
from imageloom.engines import Settings, open_engine
from imageloom.model import Item, Limits, Output, Recipe, Task, Work
from imageloom.recipes.pipeline import Pipeline
from imageloom.recipes.recipe import with_operators
from imageloom.records.events import Done, Event, Failed, Retried
from imageloom.records.ledger import Ledger
from imageloom.records.summary import Summary
from imageloom.stores.names import STAGING
from imageloom.testing.engines import recipe_of
from imageloom.worker.fork_server import warm_up
from imageloom.worker.message import Message
from imageloom.worker.process import serve, start
from program import imageloom, wait_until


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 photos, two of them red."""
    folder = tmp_path / "photos"
    draw_photos(folder, 22)
    red = np.zeros((40, 60, 3), np.uint8)
    red[:, :, 2] = 255
    for number in range(2):
        assert cv2.imwrite(str(folder / f"red-{number}.png"), red)
    return folder


def run(photos: Path, text: str, events: list[Event], **settings: object) -> Summary:
    return process(
        recipe_of(text, "png"),
        photos,
        photos.parent / "out",
        **{
            "engine": "processes",
            "jobs": 2,
            "ledger": photos.parent / "ledger.db",
            "listeners": [events.append],
            **settings,
        },  # type: ignore[arg-type]
    )


NEEDS_A_VARIABLE = """
import os
from imageloom import Pixels, operator

@operator("point", examples=("fail_without_variable",))
def fail_without_variable(image: Pixels) -> Pixels:
    assert os.environ["IMAGELOOM_TESTS"] == "late"
    return image
"""


@pytest.fixture(scope="module")
def needs_a_variable(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("operators") / "needs.py"
    path.write_text(NEEDS_A_VARIABLE)
    loaded = with_operators(Recipe(()), [str(path)])
    return replace(loaded, outputs=(Output(Pipeline("fail_without_variable").steps),))


@pytest.mark.parametrize("engine", ["processes", "pipeline", "zeromq", "redis"])
def test_workers_have_the_variables_of_the_run_and_not_of_the_first_one(
    engine: str, needs_a_variable: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As credentials that are set after an engine was used; the fork server has been there since."""
    children_of_an_earlier_run = open_engine("processes", Settings(1))
    children_of_an_earlier_run.close()
    draw_photos(tmp_path / "photos", 2)
    monkeypatch.setenv("IMAGELOOM_TESTS", "late")
    out, ledger = tmp_path / "out", tmp_path / "ledger.db"
    summary = process(
        needs_a_variable, tmp_path / "photos", out, engine=engine, jobs=1, ledger=ledger, sandbox="off"
    )
    assert summary.done == 2


BLAS = """
import ctypes
import imageloom, numpy as np

@imageloom.operator("point", examples=())
def blas_threads(image):
    \"\"\"As bright as NumPy's BLAS has threads.\"\"\"
    (path,) = {line.split()[-1] for line in open("/proc/self/maps") if "scipy_openblas" in line}
    return np.full_like(image, ctypes.CDLL(path).scipy_openblas_get_num_threads64_())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("engine", ["threads", "processes", "zeromq"])
def test_a_worker_has_one_thread_for_blas(tmp_path: Path, engine: str) -> None:
    """The cores are the engine's to divide."""
    draw_photos(tmp_path / "photos", 3)
    (tmp_path / "own.py").write_text(BLAS)
    options = (
        "--operators",
        tmp_path / "own.py",
        "--engine",
        engine,
        "--format",
        "png",
        "-q",
        "--sandbox",
        "off",
    )
    done = imageloom("run", "blas_threads", tmp_path / "photos", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "out").iterdir():
        image = cv2.imread(str(path))
        assert image is not None
        assert set(image.ravel().tolist()) == {1}


@pytest.mark.parametrize("engine", ["processes", "pipeline", "zeromq"])
def test_a_script_without_a_guard_runs_once(engine: str, tmp_path: Path) -> None:
    """Workers do not import the main module, as multiprocessing's usually do."""
    draw_photos(tmp_path / "photos", 3)
    script = tmp_path / "script.py"
    script.write_text(
        "from imageloom import process\n"
        "print('once')\n"
        f"summary = process('invert', 'photos', 'out', engine={engine!r}, jobs=2, ledger='ledger.db')\n"
        "print(summary.done)\n"
    )
    command = [sys.executable, str(script)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert ran.stdout.split() == ["once", "3"], ran.stderr


OWN_OPERATOR = """
import sys
from imageloom import Pixels, operator, process
from imageloom.errors import UsageError

@operator("point", examples=("mine",))
def mine(image: Pixels) -> Pixels:
    return 255 - image

for engine in ("auto", "threads", "processes"):
    try:
        print(process("mine", "photos", f"out-{engine}", engine=engine, jobs=8, ledger="ledger.db").done)
    except UsageError as error:
        print(str(error).partition(":")[0])
"""


def test_an_operator_of_the_main_program_is_for_threads(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 3)
    (tmp_path / "script.py").write_text(OWN_OPERATOR)
    command = [sys.executable, str(tmp_path / "script.py")]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    said = "the operator 'mine' is defined in the main program, which workers of the engine processes do not load"
    assert ran.stdout.splitlines() == ["3", "3", said], ran.stderr


EARLIER: set[int] = set()
"""Processes that tests of other modules have left."""


@pytest.fixture(autouse=True)
def note_earlier() -> None:
    EARLIER.clear()
    EARLIER.update(child.pid for child in children())


def children() -> list[psutil.Process]:
    """Workers of this process: what multiprocessing's fork server has begun."""
    found = [grandchild for child in psutil.Process().children() for grandchild in child.children()]
    return [child for child in found if child.pid not in EARLIER]


def workers() -> list[psutil.Process]:
    """Those that work. What forks their decoding processes has one thread, a worker has more."""
    found = []
    for child in children():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child] if child.num_threads() > 1 else []
    return found


@pytest.mark.parametrize(("harm", "batch"), [("hang_on_red", 1), ("spin_on_red", 1), ("hang_on_red", 50)])
def test_the_other_worker_does_all_else_while_one_item_hangs(
    harm: str, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits behind that item in its task too; and there are never more workers than were asked for."""
    monkeypatch.setattr("imageloom.recipes.plan.BATCH_ITEMS", batch)
    monkeypatch.setattr("imageloom.scheduling.scheduler.PATIENCE", 0.5)
    red = np.zeros((40, 60, 3), np.uint8)
    red[:, :, 2] = 255
    for timeout in (1.5, 20.0):  # the others need longer on a busy machine
        photos = tmp_path / f"{timeout}" / "photos"
        draw_photos(photos, 16)
        assert cv2.imwrite(str(photos / "photo-0000-red.png"), red)
        events: list[Event] = []
        workers: set[int] = set()

        def note(event: Event, events: list[Event] = events, workers: set[int] = workers) -> None:
            events.append(event)
            workers.add(len(children()))

        summary = run(
            photos, f"{harm} | resize 32x32", events, timeout=timeout, listeners=[note], sandbox="off"
        )
        assert (summary.done, summary.failed) == (16, 1)
        assert max(workers) <= 3, "two, and one that was just ended"
        told = [event.result.key for event in events if isinstance(event, Done | Failed | Retried)]
        if told.index("photo-0000-red.png") == 16:
            break
    assert told.index("photo-0000-red.png") == 16


@pytest.mark.parametrize(
    ("step", "kind", "settings"),
    [
        ("crash_on_red", "WorkerLost", {}),
        ("hang_on_red", "ItemTimeout", {"timeout": 1.0}),
        ("eat_memory_on_red", "MemoryError", {"memory": 512 << 20}),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_harmful_items_fail_alone(
    photos: Path, step: str, kind: str, settings: dict[str, object], threads: int
) -> None:
    events: list[Event] = []
    summary = run(photos, f"{step} | resize 32x32", events, threads=threads, **settings)
    assert (summary.done, summary.failed) == (22, 2)
    failed = {e.result.key: e for e in events if isinstance(e, Failed)}
    assert set(failed) == {"red-0.png", "red-1.png"}
    for event in failed.values():
        assert event.attempt == 3
        assert event.result.failure is not None
        assert event.result.failure.kind in (kind, "OperatorFailed", "WorkerLost")
        if kind != "MemoryError":
            assert event.result.failure.kind == kind
    with Ledger(photos.parent / "ledger.db") as ledger:
        innocent = [i for i in ledger.items(summary.job) if i.state == "done"]
    assert len(innocent) == 22
    # A thread beside a harmful item may lose its own one once; never again, for a suspect runs alone.
    assert all(item.attempts <= threads for item in innocent)
    assert not list((photos.parent / "out").glob(".imageloom*"))
    assert not children()


def test_a_crash_names_its_signal(photos: Path) -> None:
    events: list[Event] = []
    run(photos, "crash_on_red", events)
    reasons = [
        e.result.failure.message for e in events if isinstance(e, (Failed, Retried)) if e.result.failure
    ]
    assert len(reasons) == 6
    assert all("SIGSEGV" in reason for reason in reasons)


def test_killed_workers_are_replaced_and_lose_one_item_each(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 200)
    killed: list[int] = []
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.15) and len(killed) < 5:
            for one in (
                workers()[:1] if len(killed) % 2 else children()[:1]
            ):  # the first one may fork for a worker
                os.kill(one.pid, signal.SIGKILL)
                killed.append(one.pid)

    events: list[Event] = []
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        summary = process(
            "resize 400x400 | median_blur 31",
            tmp_path / "photos",
            tmp_path / "out",
            engine="processes",
            jobs=2,
            ledger=tmp_path / "ledger.db",
            listeners=[events.append],
        )
    finally:
        done.set()
        thread.join()
    retried = [e for e in events if isinstance(e, Retried)]
    assert len(killed) > 1
    assert (summary.done, summary.failed) == (200, 0)
    assert len(retried) <= len(killed)
    assert not children()


def test_close_ends_workers_even_when_nothing_was_done() -> None:
    engine = open_engine("processes", Settings(jobs=2))
    engine.close()
    wait_until(lambda: not children())


def test_a_worker_that_is_told_to_drop_the_rest_still_does_what_is_wanted(tmp_path: Path) -> None:
    """It may be told so just before it begins the last item that nobody else does."""
    draw_photos(tmp_path / "in", 3)
    (tmp_path / "out" / STAGING).mkdir(parents=True)
    names = sorted(path.name for path in (tmp_path / "in").iterdir())
    work = tuple(Work(Item(name), (name,), number) for number, name in enumerate(names))
    addresses = str(tmp_path / "in"), str(tmp_path / "out")
    task = Task(7, "1", *addresses, recipe_of("invert"), Limits(), work)
    context = warm_up()
    ours, theirs = context.Pipe()
    worker = start(context, serve, theirs, 1, 0, 1)
    theirs.close()
    for message in (task, (7, 2)):
        ours.send_bytes(msgspec.msgpack.encode(message))
    said = [msgspec.msgpack.decode(ours.recv_bytes(), type=Message) for _ in range(3) if ours.poll(30)]
    ours.close()
    worker.join(30)
    assert [one.place for one in said if one.result] == [0, 1]
