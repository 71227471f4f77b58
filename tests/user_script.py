# mypy: disallow-any-expr, disallow-any-decorated, disallow-any-explicit, disallow-any-unimported
"""A script as a user writes it, with all of the public interface. mypy checks it; `test_python_types` runs it."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, assert_never, assert_type

import numpy as np
import PIL.Image
from numpy.typing import NDArray

import imageloom
from imageloom import (
    Advanced,
    Began,
    Box,
    Chroma,
    Collected,
    Colors,
    Comparison,
    Damage,
    Decode,
    Done,
    DType,
    Event,
    Failed,
    Failure,
    Format,
    Frame,
    GainMap,
    IfExists,
    Image,
    ItemResult,
    Job,
    Keep,
    Limits,
    Links,
    Listener,
    Measure,
    Meta,
    Metadata,
    Options,
    Output,
    Pages,
    Pipeline,
    Pixels,
    Planned,
    Progress,
    Pruned,
    Recipe,
    Retried,
    SandboxMode,
    Saved,
    Skipped,
    Started,
    Step,
    Stream,
    Summary,
    compare,
    errors,
    operator,
    ops,
    process,
    read_recipe,
    start,
    stream,
)

Array: TypeAlias = "NDArray[np.uint8 | np.uint16 | np.float32]"


@operator("point", channelwise=True, examples=("user_dim 2",))  # type: ignore[misc]
def user_dim(image: Pixels, *, factor: Annotated[int, Meta(ge=1, le=8)] = 2) -> Pixels:
    """Divide each value by a factor."""
    return image // factor  # type: ignore[misc]


def one_image(path: Path, folder: Path) -> None:
    image = assert_type(imageloom.open(path, decode="exact", limits=Limits(max_pixels=10**8)), Image)
    assert_type(image.pixels, Array)
    assert_type(image.size, tuple[int, int])
    assert_type(image.mode, Literal["gray", "gray+alpha", "RGB", "RGBA"])
    assert_type(image.format, str | None)
    assert_type(image.metadata, Metadata)
    assert_type(
        (image.width, image.height, image.page, image.pages, image.extra), tuple[int, int, int, int, int]
    )
    assert_type((image.profile, image.colours, image.dtype), tuple[bytes, str, DType])
    assert_type(
        (image.shape, image.warnings, image.pipeline), tuple[tuple[int, ...], tuple[str, ...], Pipeline]
    )
    small = assert_type(image.apply("resize 50%").apply(Step("flip")).apply(Pipeline("invert")), Image)
    saved = assert_type(small.save(folder / "small.png", quality=None, metadata="keep"), Saved)
    print(saved.path, saved.size, saved.format, saved.dropped, saved.warnings)
    assert_type(small.save(io.BytesIO(), format="jpeg", quality=80, subsampling="420"), Saved)
    assert_type(small.encode("webp", colors="srgb", gain_map="drop"), bytes)
    assert_type(small.to_pil(), PIL.Image.Image)
    assert_type(Image.from_pil(small.to_pil()), Image)
    assert_type(Image.from_array(small.pixels, metadata=Metadata(icc=b"")), Image)
    assert_type(compare(image, "canny", Pipeline("flip")), Comparison)
    with imageloom.open(path.read_bytes(), page=1, density=0, damage="refuse") as again:
        assert_type(again, Image)


def pipelines(image: Image, pixels: NDArray[np.uint8], pillow: PIL.Image.Image) -> None:
    pipeline = assert_type(Pipeline().resize("64x64", fit="inside", enlarge=False).grayscale(), Pipeline)
    assert pipeline == Pipeline("resize 64x64 fit=inside enlarge=false | grayscale")
    assert_type(pipeline | Step("canny", {"low": 50, "high": 150}) | "invert", Pipeline)
    assert_type(pipeline.then("user_dim", factor=3), Pipeline)
    assert_type(Pipeline.from_yaml(pipeline.to_yaml()), Pipeline)
    assert_type(pipeline.frames(Frame(64, 64, 3))[-1], Frame)
    assert_type([step.name for step in pipeline], list[str])
    assert_type(pipeline(image), Image)
    assert_type(pipeline(pixels), NDArray[np.uint8])
    assert_type(pipeline(pillow), PIL.Image.Image)
    assert_type(ops.gaussian_blur(pixels, sigma=2), NDArray[np.uint8])
    assert_type(ops.gaussian_blur(image, sigma=2), Image)
    assert_type(ops.rotate(pillow, 90), PIL.Image.Image)
    assert_type(ops.threshold(pixels, value="otsu") if pixels.ndim == 2 else pixels, NDArray[np.uint8])


def many(source: Path, sink: Path, ledger: Path) -> None:
    heard: list[Event] = []
    listener: Listener = heard.append
    options: Options = {"ledger": ledger, "engine": "threads", "jobs": 2, "listeners": [listener]}
    summary = assert_type(process("resize 50%", source, sink / "1", **options), Summary)
    assert_type((summary.done, summary.failed, summary.skipped, summary.total), tuple[int, int, int, int])
    assert_type(
        (summary.failures, summary.left_out, summary.dropped),
        tuple[dict[str, Failure], dict[str, int], dict[str, int]],
    )
    print(summary, summary.exit_code, summary.seconds, summary.interrupted, summary.lost, summary.damaged)
    told(heard)
    recipe = Recipe(
        (Output((Step("flip"),), folder="a", format="png", quality=90), Output((Step("invert"),), "b"))
    )
    assert_type(read_recipe("grayscale | canny"), Recipe)
    assert_type(process(recipe, source, sink / "2", ledger=ledger, if_exists="skip", progress=False), Summary)
    with stream(Pipeline().flip(), source, sink / "3", **options) as items:
        assert_type(items, Stream)
        for item in items:
            assert_type(item, ItemResult)
            print(
                item.key, item.state, item.outputs, item.seconds, item.attempts, item.dropped, item.warnings
            )
            print(item.failure.message if item.failure else item.reason)
    assert_type(items.summary, Summary)
    assert_type(items.job, Job)
    job = assert_type(start("flip", str(source), str(sink / "4"), **options), Job)
    progress = assert_type(job.progress, Progress)
    print(
        progress.done, progress.failed, progress.skipped, progress.total, progress.rate, progress.is_running
    )
    assert_type(job.wait(timeout=60), Summary)
    shown(job.items)
    shown(job.failures)
    job.stop()
    print(job.number)


def merged(measure: Measure) -> bool:
    """How a global operator is measured: `operator(measured=...)`."""
    return measure.placed


def chosen(
    decode: Decode,
    damage: Damage,
    keep: Keep,
    colors: Colors,
    gain_map: GainMap,
    pages: Pages,
    chroma: Chroma,
    format: Format,
    if_exists: IfExists,
    links: Links,
    mode: SandboxMode,
) -> Options:
    return {
        "decode": decode,
        "damage": damage,
        "metadata": keep,
        "colors": colors,
        "gain_map": gain_map,
        "pages": pages,
        "subsampling": chroma,
        "format": format,
        "if_exists": if_exists,
        "links": links,
        "sandbox": mode,
    }


def shown(items: Iterable[ItemResult]) -> None:
    for item in items:
        print(item.key)


def told(events: Iterable[Event]) -> None:
    """Each event is of one of these types."""
    for event in events:
        match event:
            case Began():
                print(event.job)
            case Planned() | Skipped():
                print(event.item.key)
            case Started():
                print(event.task, event.items, event.pixels)
            case Collected():
                print(event.outcome.worker)
            case Done() | Failed() | Retried():
                print(event.result.key, event.attempt)
            case Advanced():
                print(event.key, event.share)
            case Pruned():
                print(event.name, event.kept)
            case _:
                assert_never(event)


async def later(source: Path, sink: Path, ledger: Path) -> None:
    job = start("flip", source, sink / "5", ledger=ledger)
    assert_type(await job, Summary)
    async with stream("flip", source, sink / "6", ledger=ledger) as items:
        async for item in items:
            assert_type(item, ItemResult)
    waiting = stream("flip", source, sink / "7", ledger=ledger)
    assert_type(await anext(waiting), ItemResult)
    await waiting.aclose()


def mistakes(folder: Path) -> None:
    try:
        imageloom.open(folder / "nothing.jpg")
    except imageloom.MissingFile as error:
        print(error)
    try:
        Pipeline("blurr 3")
    except imageloom.PipelineError as error:
        print(error, error.exit_code)
    kinds: tuple[type[imageloom.ImageloomError], ...] = (
        imageloom.UsageError,
        imageloom.StorageError,
        imageloom.MissingExtra,
        imageloom.EngineFailed,
        imageloom.SinkBusy,
        imageloom.ItemError,
        imageloom.CorruptImage,
        imageloom.UnsupportedImage,
        imageloom.LimitExceeded,
        imageloom.MetadataLost,
        imageloom.OperatorFailed,
        imageloom.OperatorRefused,
        imageloom.UnreadableItem,
        errors.ItemTimeout,
    )
    print(len(kinds), Box(0, 0, 8, 8).width, imageloom.__version__)
    known = imageloom.Primaries(gamma=45_455), imageloom.Density(300, 300), imageloom.Luminance()
    print(
        Metadata(
            colours=known[0], density=known[1], luminance=known[2], texts=(imageloom.Text("Title", "a"),)
        )
    )


def service() -> None:
    """A service that cannot be reached."""
    with imageloom.Client("http://127.0.0.1:9", "no token of any service", timeout=5) as client:
        try:
            assert_type(client.flow("web").name, str)
        except imageloom.StorageError as error:
            print(error)


def main(source: Path, folder: Path) -> None:
    path = next(source.iterdir())
    image = imageloom.open(path)
    one_image(path, folder)
    pipelines(image, np.zeros((90, 120, 3), np.uint8), image.to_pil())
    many(source, folder / "many", folder / "ledger.db")
    asyncio.run(later(source, folder / "later", folder / "ledger.db"))
    mistakes(folder)
    service()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
