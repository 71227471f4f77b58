"""Large images: tiled equals whole, byte for byte, on every engine; complete or not at all."""

from __future__ import annotations

import random
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imageloom.api import process
from imageloom.bench.samples import draw_photo
from imageloom.codecs import get
from imageloom.codecs.piecewise import tiff
from imageloom.driver import window
from imageloom.driver.run import Driver
from imageloom.engines import Engine, Settings, open_engine
from imageloom.engines.serial import Serial
from imageloom.errors import CorruptImage, UnwritableOutput, WorkerLost
from imageloom.model import Box, Encoding, Failure, Frame, Job, Outcome, Output, Pixels, Recipe, Result, Task
from imageloom.recipes.pipeline import Pipeline
from imageloom.records.events import Collected, Event, Failed, Retried
from imageloom.records.ledger import Ledger
from imageloom.records.summary import Summary
from imageloom.scheduling.results import ResultCallback
from imageloom.tiling.raster import FileRaster, HeldRaster, open_raster

PIPELINES = (
    "gaussian_blur 2",
    "grayscale | canny 60 150",
    "equalize | median_blur 5 | rotate 90",
    "motion_blur 15 30 | crop 450x250+11+7 | flip | gamma 1.3",
    "clahe 3 tiles=5 | invert",
    "resize 90% | clahe",
    "edge_mask | flip",
    "resize 25% | autocontrast 1 | sharpen",
    "grayscale | threshold otsu | open 3",
)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of few rows, so that small images have many."""
    monkeypatch.setattr("imageloom.tiling.assemble.PART_PIXELS", 700 * 64)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The same drawing in files that are read in their different ways."""
    folder = tmp_path / "photos"
    folder.mkdir()
    image = draw_photo(3, 700, 900)
    for format in ("jpeg", "png"):
        (folder / f"{format}.{format}").write_bytes(get(format).encode(image, Encoding(90)))
    (folder / "tiled.tif").write_bytes(tiff.Encoder(Frame.of(image), tile=64).encode(image))
    deep = (draw_photo(4, 500, 300).astype(np.uint16) << 8) | 77
    (folder / "deep.png").write_bytes(get("png").encode(deep, Encoding(0)))
    return folder


def run(photos: Path, out: Path, text: str, tile: str, engine: str = "threads", **options: Any) -> Summary:
    return process(
        Pipeline(text),
        photos,
        out,
        tile=tile,  # type: ignore[arg-type]
        engine=engine,
        jobs=2,
        ledger=out.with_suffix(".db"),
        listeners=[lambda event: print(event) if isinstance(event, Failed | Retried) else None],  # noqa: T201
        **options,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("text", PIPELINES)
def test_tiled_equals_whole(photos: Path, tmp_path: Path, text: str) -> None:
    whole, tiled = tmp_path / "whole", tmp_path / "tiled"
    takes = "deep.png" if any(name in text for name in ("canny", "otsu", "equalize", "edge_mask")) else ""
    options: dict[str, Any] = {"exclude": [takes] if takes else []}
    assert run(photos, whole, text, "never", **options).failed == 0
    assert run(photos, tiled, text, "always", **options).failed == 0
    assert contents(tiled) == contents(whole)


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_every_engine_does_tiles(photos: Path, tmp_path: Path, engine: str) -> None:
    text = "grayscale | canny 60 150"
    run(photos, tmp_path / "whole", text, "never", exclude=["deep.png"])
    run(photos, tmp_path / "tiled", text, "always", engine, exclude=["deep.png"])
    assert contents(tmp_path / "tiled") == contents(tmp_path / "whole")


def test_large_outputs_are_written_in_pieces(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageloom.model.image.LARGE", 100_000)
    monkeypatch.setattr("imageloom.tiling.readers.jpeg._STRIP", 700 * 128)
    monkeypatch.setattr("imageloom.codecs.piecewise.png._STRIP", 700 * 50)
    here = {"sandbox": "off"}  # the changes are of this process
    run(photos, tmp_path / "whole", "gaussian_blur 2", "never", **here)
    run(photos, tmp_path / "tiled", "gaussian_blur 2", "always", **here)
    assert contents(tmp_path / "tiled") == contents(tmp_path / "whole")


def test_several_outputs(photos: Path, tmp_path: Path) -> None:
    outputs = [Output(Pipeline(t).steps, folder=f) for t, f in (("invert", "a"), ("equalize | flip", "b"))]
    for tile in ("never", "always"):
        job_out = tmp_path / tile
        process(
            Recipe(tuple(outputs)),
            photos,
            job_out,
            tile=tile,
            exclude=["deep.png"],
            ledger=tmp_path / f"{tile}.db",
        )
    assert len(contents(tmp_path / "always")) == 6
    assert contents(tmp_path / "always") == contents(tmp_path / "never")


class Lossy(Engine):
    """A serial engine that drops, doubles, reorders and damages what comes back."""

    capacity = 3

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._inner = Serial(Settings())
        self._held: list[tuple[Future[Outcome], Outcome]] = []
        self.harmed = 0

    def submit(self, task: Task) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        outcome = self._inner.submit(task).result()
        chance = self._random.random()
        if task.work[0].attempt < 3 and chance < 0.2:
            self.harmed += 1
            future.set_exception(WorkerLost("dropped"))
            return future
        if task.work[0].attempt < 3 and chance < 0.3:
            self.harmed += 1
            failed = Failure("UnwritableOutput", "damaged on its way", transient=True)
            key = task.work[0].item.key
            outcome = Outcome(task.id, "lossy", (Result(key, failure=failed),))
        elif chance < 0.4:
            self._inner.submit(task)  # done twice; the second staging overwrites the first with the same
        self._held.append((future, outcome))
        if len(self._held) >= self._random.randint(1, 3):
            self._release()
        return future

    def _release(self) -> None:
        self._random.shuffle(self._held)
        for future, outcome in self._held:
            future.set_result(outcome)
        self._held.clear()

    def close(self) -> None:
        self._release()
        self._inner.close()


def drive(photos: Path, out: Path, engine: Engine, text: str = "gaussian_blur 3") -> Summary:
    job = Job(str(photos), str(out), Recipe((Output(Pipeline(text).steps),)), tile="always")
    with Ledger(out.with_suffix(".db")) as ledger:
        try:
            return Driver(job, engine, ledger).run()
        finally:
            engine.close()


@pytest.mark.parametrize("seed", range(20))
def test_lost_late_doubled_and_damaged_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    check_lossy(tmp_path, monkeypatch, seed)


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_a_thousand_patterns_of_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harmed = 0
    for seed in range(1000):
        folder = tmp_path / str(seed)
        folder.mkdir()
        harmed += check_lossy(folder, monkeypatch, 1000 + seed)
    assert harmed > 3000


def check_lossy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> int:
    """A 35-tile image through a lossy engine."""
    monkeypatch.setattr("imageloom.tiling.assemble.PART_PIXELS", 100 * 32)
    monkeypatch.setattr(window, "FIRST_PAUSE", 0.001)
    photos = tmp_path / "photos"
    photos.mkdir()
    image = draw_photo(seed % 7, 100, 35 * 32)
    (photos / "a.png").write_bytes(get("png").encode(image, Encoding(0)))
    engine = LossyInTime(seed)
    summary = drive(photos, tmp_path / "out", engine)
    assert (summary.done, summary.failed) == (1, 0)
    expected = Pipeline("gaussian_blur 3")(image)
    assert (tmp_path / "out" / "a.png").read_bytes() == get("png").encode(expected, Encoding(0))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.png"]
    return engine.harmed


class LossyInTime(Lossy):
    """Never holds an outcome back for ever: what is held is released by a timer."""

    def submit(self, task: Task) -> Future[Outcome]:
        import threading

        future = super().submit(task)
        threading.Timer(0.002, self._release_held).start()
        return future

    def _release_held(self) -> None:
        held, self._held = self._held, []
        for future, outcome in held:
            future.set_result(outcome)


def test_what_fails_for_good_names_its_missing_tiles(tmp_path: Path, photos: Path) -> None:
    class Refusing(Serial):
        def submit(self, task: Task, on_result: ResultCallback | None = None) -> Future[Outcome]:
            if task.part is not None and task.part.number == 3:
                failed = Failure("OperatorFailed", "no", transient=True)
                future: Future[Outcome] = Future()
                future.set_result(Outcome(task.id, "x", (Result(task.work[0].item.key, failure=failed),)))
                return future
            return super().submit(task, on_result)

    out = tmp_path / "out"
    summary = drive(photos, out, Refusing(Settings()))
    assert (summary.done, summary.failed) == (0, 4)
    with Ledger(out.with_suffix(".db")) as ledger:
        for item in ledger.items(summary.job):
            assert item.failure is not None
            assert "tiles are missing in phase 1: 3" in item.failure.message
    assert list(out.iterdir()) == []


def test_a_damaged_tile_of_the_source_fails_the_image_alone(photos: Path, tmp_path: Path) -> None:
    data = bytearray((photos / "tiled.tif").read_bytes())
    data[20_000:20_200] = bytes(200)
    (photos / "tiled.tif").write_bytes(data)
    out = tmp_path / "out"
    summary = run(photos, out, "gaussian_blur 2", "always")
    assert (summary.done, summary.failed) == (3, 1)
    with Ledger(out.with_suffix(".db")) as ledger:
        (failed,) = ledger.items(summary.job, "failed")
    assert failed.failure is not None
    assert failed.failure.kind == CorruptImage.__name__
    assert "tile 4 (row 0, column 4) is damaged" in failed.failure.message
    assert "phase" not in failed.failure.message
    assert sorted(p.name for p in out.iterdir()) == ["deep.png", "jpeg.jpeg", "png.png"]


def test_a_raster_gives_back_what_was_put(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    for channels, dtype in ((1, np.uint8), (3, np.uint16), (4, np.float32)):
        shape = (50, 40, channels)[: 2 if channels == 1 else 3]
        image: Pixels = (generator.random(shape) * 200).astype(dtype)
        raster = FileRaster(str(tmp_path / "r"), Frame.of(image), new=True)
        for box in (Box(0, 0, 40, 20), Box(0, 20, 17, 50), Box(17, 20, 40, 50)):
            raster.write(box, image[box.slices(Box(0, 0, 40, 50))])
        for box in (Box(0, 0, 40, 50), Box(3, 7, 29, 41)):
            assert np.array_equal(raster.read(box), image[box.slices(Box(0, 0, 40, 50))])
        raster.forget(0, 10)
        raster.remove()
    assert not list(tmp_path.iterdir())


def test_rows_in_memory_are_held_until_they_are_forgotten() -> None:
    image = draw_photo(5, 40, 50)
    whole = Box(0, 0, 40, 50)
    raster = HeldRaster("r", Frame.of(image))
    strips = [image[y : y + 10].copy() for y in range(0, 50, 10)]
    held = [weakref.ref(strip) for strip in strips]
    for number in range(5):
        raster.write(Box(0, 10 * number, 40, 10 * number + 10), strips.pop(0))
    for box in (whole, Box(3, 7, 29, 41), Box(0, 20, 40, 30)):
        found = open_raster(raster.path, Frame.of(image)).read(box)
        assert np.array_equal(found, image[box.slices(whole)])
        found[:] = 0  # a filter may work in place
    raster.forget(0, 19)
    assert [strip() is None for strip in held] == [True, False, False, False, False]
    assert np.array_equal(raster.read(Box(0, 10, 40, 50)), image[10:])
    with pytest.raises(UnwritableOutput, match="1 rows"):
        raster.read(Box(0, 9, 40, 50))
    path = raster.path
    del raster
    with pytest.raises(UnwritableOutput, match=path):
        open_raster(path, Frame.of(image))


@pytest.mark.parametrize(
    ("engine", "text", "memory", "files"),
    [
        ("threads", "gaussian_blur 2", 10**9, False),
        ("threads", "gaussian_blur 2", 6 * 10**6, True),
        ("threads", "rotate 180", 10**9, True),
        ("processes", "gaussian_blur 2", 10**9, True),
    ],
)
def test_decoded_rows_wait_in_memory_where_workers_share_it(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    text: str,
    memory: int,
    files: bool,
) -> None:
    made: list[str] = []

    class Noted(FileRaster):
        def __init__(self, path: str, frame: Frame, new: bool = False) -> None:
            if new:
                made.append(path)
            super().__init__(path, frame, new)

    monkeypatch.setattr("imageloom.tiling.assemble.FileRaster", Noted)
    if engine == "threads":  # the output is written in pieces, not by way of a raster
        monkeypatch.setattr("imageloom.model.image.LARGE", 100_000)
        monkeypatch.setattr("imageloom.codecs.piecewise.jpeg._PIECE", 700 * 128)
    run(photos, tmp_path / "whole", text, "never", include=["jpeg.jpeg"])
    run(photos, tmp_path / "tiled", text, "always", engine, include=["jpeg.jpeg"], memory=memory)
    assert contents(tmp_path / "tiled") == contents(tmp_path / "whole")
    assert bool(made) is files


def test_an_engine_is_opened_for_tiles_of_one_file(photos: Path, tmp_path: Path) -> None:
    """--items-at-once 1: one image at a time, parallel inside."""
    engine = open_engine("threads", Settings(jobs=2))
    largest = 0

    class Counting(Engine):
        capacity = 2

        def submit(self, task: Task) -> Future[Outcome]:
            nonlocal largest
            names.add(task.work[0].item.key)
            largest = max(largest, len(names - finished))
            return engine.submit(task)

        def close(self) -> None: ...

    names: set[str] = set()
    finished: set[str] = set()
    job = Job(
        str(photos),
        str(tmp_path / "out"),
        Recipe((Output(Pipeline("invert").steps),)),
        tile="always",
        items_at_once=1,
    )

    def listen(event: object) -> None:
        from imageloom.records.events import Done

        if isinstance(event, Done):
            finished.add(event.result.key)

    try:
        with Ledger(tmp_path / "l.db") as ledger:
            summary = Driver(job, Counting(), ledger, listeners=[listen]).run()
    finally:
        engine.close()
    assert summary.done == 4
    assert largest == 1


def test_an_image_that_nothing_waits_behind_is_done_in_parts(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's only one as well as its last one: all workers help."""
    monkeypatch.setattr("imageloom.recipes.parting.ALONE", 500_000)
    (photos / "deep.png").unlink()
    in_parts: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Collected) and event.task.part and event.task.work[0].item.key not in in_parts:
            in_parts.append(event.task.work[0].item.key)

    process("invert", photos, tmp_path / "out", engine="threads", jobs=2, listeners=[listen])
    assert in_parts == ["tiled.tif"]
    for name in ("tiled.tif", "png.png"):
        (photos / name).unlink()
    process("invert", photos, tmp_path / "one", engine="threads", jobs=2, listeners=[listen])
    assert in_parts == ["tiled.tif", "jpeg.jpeg"]
