"""Jobs from Python: started, streamed, stopped, awaited; what they say while they run and at their end."""

from __future__ import annotations

import asyncio
import gc
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import imageloom
from imageloom import Event, Options, operators
from imageloom.interface import running
from imageloom.records.ledger import Ledger
from program import contents, draw, wait_until


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(12):
        draw(folder / f"photo-{number:04}.jpg", number, 60, 40)
    (folder / "bad.jpg").write_bytes(b"text")
    (folder / "notes.txt").write_text("left out")
    return folder


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return {"ledger": tmp_path / "ledger.db", "engine": "threads", "jobs": 2}


def state_of(ledger: Path) -> str:
    """The state of the latest job."""
    with Ledger(ledger) as book:
        return next(book.jobs()).state


def test_the_outputs_are_those_of_process(photos: Path, tmp_path: Path, options: Options) -> None:
    summary = imageloom.process("resize 20x", photos, tmp_path / "a", **options)
    with imageloom.stream("resize 20x", photos, tmp_path / "b", **options) as items:
        found = {item.key: item for item in items}
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert (summary.done, summary.failed) == (items.summary.done, items.summary.failed) == (12, 1)
    assert {item.state for item in found.values()} == {"done", "failed"}
    assert found["photo-0003.jpg"].outputs == (str(tmp_path / "b" / "photo-0003.jpg"),)
    bad = found["bad.jpg"].failure
    assert bad is not None
    assert bad == items.summary.failures["bad.jpg"] == summary.failures["bad.jpg"]
    assert bad.kind == "UnsupportedImage"
    assert summary.left_out == {".txt": 1}
    assert "bad.jpg" in summary._repr_html_()
    with imageloom.stream("resize 20x", photos, tmp_path / "b", **options) as again:
        assert {item.state: item.reason for item in again} == {"skipped": "done before", "failed": None}


def test_a_job_is_asked_and_awaited(photos: Path, tmp_path: Path, options: Options) -> None:
    job = imageloom.start("resize 20x", photos, tmp_path / "out", **options)
    summary = job.wait(60)
    assert job.progress.total == summary.total == 13
    assert not job.progress.is_running
    assert [item.key for item in job.failures] == ["bad.jpg"]
    assert len(list(job.items)) == 13
    assert job.number == summary.job
    assert "12 done, 1 failed" in repr(job)
    assert "12 done" in job._repr_html_()


class Gate:
    """A listener that holds the job after its first item."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, event: Event) -> None:
        if isinstance(event, imageloom.Done):
            self.reached.set()
            assert self.opened.wait(60)


def test_a_stopped_job_ends_early_and_can_be_resumed(photos: Path, tmp_path: Path, options: Options) -> None:
    gate = Gate()
    held: Options = {**options, "listeners": [gate]}
    job = imageloom.start("resize 20x", photos, tmp_path / "out", **held)
    assert gate.reached.wait(60)
    assert job.progress.is_running
    with pytest.raises(TimeoutError):
        job.wait(0.01)
    job.stop()
    gate.opened.set()
    assert job.wait(60).interrupted
    assert state_of(tmp_path / "ledger.db") == "interrupted"
    assert imageloom.process("resize 20x", photos, tmp_path / "out", **options).done + job.progress.done == 12


def test_a_stream_that_is_closed_stops_its_job(photos: Path, tmp_path: Path, options: Options) -> None:
    items = imageloom.stream("resize 20x", photos, tmp_path / "out", **options)
    next(items)
    items.close()
    assert list(items) == []
    assert not items.job.progress.is_running
    items.close()
    for _ in imageloom.stream("resize 20x", photos, tmp_path / "other", **options):
        break
    gc.collect()
    wait_until(lambda: not [one for one in threading.enumerate() if one.name == "imageloom job"])


def test_a_slow_reader_holds_the_job(
    photos: Path, tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "MOST_WAITING", 2)
    with imageloom.stream("resize 20x", photos, tmp_path / "out", **options) as items:
        next(items)
        wait_until(lambda: items.job.progress.total >= 3)
        assert items.job.progress.total <= 4
        assert len(list(items)) == 12
    monkeypatch.setattr(running, "MOST_WAITING", 1)
    with imageloom.stream("flip", photos, tmp_path / "out2", **options):
        pass  # left while the job waits for its reader
    items = imageloom.stream("flip", photos, tmp_path / "out3", **options)
    assert items.summary.done == 12  # nobody reads meanwhile
    assert len(list(items)) == 13


def test_asyncio(photos: Path, tmp_path: Path, options: Options) -> None:
    async def one(name: str) -> set[str]:
        async with imageloom.stream("resize 20x", photos, tmp_path / name, **options) as items:
            return {item.key async for item in items}

    async def main() -> None:
        found = await asyncio.gather(one("a"), one("b"))
        assert found[0] == found[1]
        assert len(found[0]) == 13
        gate = Gate()
        held: Options = {**options, "listeners": [gate]}
        job = imageloom.start("flip", photos, tmp_path / "c", **held)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(job, 0.05)
        gate.opened.set()
        assert (await job).done == 12  # a reader that gives up does not end the job
        items = imageloom.stream("flip", photos, tmp_path / "d", **options)
        waiting = asyncio.ensure_future(anext(items))
        await asyncio.sleep(0)
        waiting.cancel()
        await items.aclose()
        assert [item async for item in items] == []

    asyncio.run(main())


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"pipeline": "resiz 3"}, imageloom.PipelineError, "did you mean resize"),
        ({"source": "nowhere"}, imageloom.StorageError, "nowhere"),
        ({"bind": "tcp://127.0.0.1:1"}, imageloom.UsageError, "--bind"),
        ({"ledger": "/proc/nothing/ledger.db"}, imageloom.StorageError, "ledger"),
        ({"engine": "steam"}, imageloom.UsageError, "there is no engine 'steam'"),
    ],
)
def test_what_cannot_begin_raises_at_once(
    given: dict[str, Any], kind: type[Exception], said: str, photos: Path, tmp_path: Path, options: Options
) -> None:
    arguments = {"pipeline": "flip", "source": photos, "sink": tmp_path / "out", **options, **given}
    for call in (imageloom.start, imageloom.stream, imageloom.process):
        with pytest.raises(kind, match=said):
            call(**arguments)
    assert not [one for one in threading.enumerate() if one.name == "imageloom job"]


def test_an_error_that_ends_a_job_is_raised_where_it_is_asked(
    photos: Path, tmp_path: Path, options: Options
) -> None:
    def full(event: Event) -> None:
        raise imageloom.StorageError("the disk is full")

    broken: Options = {**options, "listeners": [full]}
    with pytest.raises(imageloom.StorageError, match="full"):
        imageloom.start("flip", photos, tmp_path / "a", **broken).wait(60)
    with pytest.raises(imageloom.StorageError, match="full"):
        list(imageloom.stream("flip", photos, tmp_path / "b", **broken))


def test_a_program_that_ends_stops_its_jobs(photos: Path, tmp_path: Path) -> None:
    code = (
        "import imageloom, sys; source, sink, ledger = sys.argv[1:]\n"
        "imageloom.start('gaussian_blur 3 | resize 800x', source, sink, ledger=ledger, engine='threads', jobs=1)"
    )
    ledger = tmp_path / "ledger.db"
    command = [sys.executable, "-c", code, str(photos), str(tmp_path / "out"), str(ledger)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert state_of(ledger) == "interrupted"
    names = {path.name for path in (tmp_path / "out").iterdir()} if (tmp_path / "out").exists() else set()
    assert all(name.startswith("photo-") for name in names)


def test_a_program_that_ends_leaves_its_stream(photos: Path, tmp_path: Path) -> None:
    code = (
        "import imageloom, sys; from imageloom.interface import running; source, sink, ledger = sys.argv[1:]\n"
        "running.MOST_WAITING = 1\n"
        "items = imageloom.stream('flip', source, sink, ledger=ledger, engine='threads', jobs=1)\n"
        "next(items)"
    )
    ledger = tmp_path / "ledger.db"
    command = [sys.executable, "-c", code, str(photos), str(tmp_path / "out"), str(ledger)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_recipe_with_operators_of_ones_own(photos: Path, tmp_path: Path, options: Options) -> None:
    (tmp_path / "my_ops.py").write_text(
        "from imageloom import Pixels, operator\n\n\n"
        "@operator('point', examples=('half',))\n"
        "def half(image: Pixels) -> Pixels:\n"
        "    return image // 2\n"
    )
    outputs = (imageloom.Output((imageloom.Step("half"),), folder="a"), imageloom.Output((), folder="b"))
    recipe = imageloom.Recipe(outputs, operators=(str(tmp_path / "my_ops.py"),))
    try:
        assert imageloom.process(recipe, photos, tmp_path / "out", **options).done == 12
        text = imageloom.read_recipe("half | flip", [str(tmp_path / "my_ops.py")])
        assert imageloom.process(text, photos, tmp_path / "more", **options).done == 12
    finally:
        module = operators.get("half").function.__module__
        for forget in operators.reloaded:
            forget(module)


def test_the_bar_counts_on_stderr(
    photos: Path, tmp_path: Path, options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: Options = {**options, "progress": True}
    imageloom.process("flip", photos, tmp_path / "out", **shown)
    assert re.search(r"\b13(/13| images)", capsys.readouterr().err)
