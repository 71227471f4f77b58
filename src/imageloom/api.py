"""The Python interface to whole jobs: `process` does what `imageloom run` does."""

from __future__ import annotations

import os
from collections.abc import Iterable

from imageloom.engines import open_engine
from imageloom.errors import UsageError
from imageloom.events import Listener
from imageloom.ledger import Ledger
from imageloom.model import Decode, Format, IfExists, Job, Keep, Limits, Output, Recipe
from imageloom.pipeline import Pipeline
from imageloom.run import Driver, Summary


def process(
    pipeline: Pipeline | str,
    source: str | os.PathLike[str],
    sink: str | os.PathLike[str],
    *,
    engine: str = "auto",
    jobs: int = 0,
    format: Format | None = None,
    quality: int | None = None,
    decode: Decode = "safe",
    metadata: Keep = "keep",
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    if_exists: IfExists = "error",
    retry_failed: bool = False,
    memory: int = 0,
    limits: Limits | None = None,
    ledger: str | os.PathLike[str] | None = None,
    listeners: Iterable[Listener] = (),
) -> Summary:
    """Run a pipeline over the images of a folder, or over one file, into another folder.

    What was done before, with the same pipeline and the same input, is not done again.

    Args:
        pipeline: what is done to each image.
        source: a folder or a file.
        sink: a folder; made where there is none.
        engine: `serial`, `threads`, or `auto`.
        jobs: workers; 0 for one for each core.
        format: of the outputs; None for that of each input.
        quality: 1 to 100, for lossy formats.
        decode: how far a shrinking decode may go; see `Recipe`.
        metadata: whether EXIF, XMP and the colour profile go along.
        include: patterns of names; by default all names with the suffix of an image.
        exclude: patterns of names to leave out.
        if_exists: what happens where a file that imageloom did not make has an output's name.
        retry_failed: do only the items that failed before.
        memory: bytes that the work in hand may need together; 0 for half of the machine's.
        limits: what is refused from the header alone.
        ledger: the file of the ledger; None for the one in the user's state directory.
        listeners: called with each event, in the calling thread.

    Raises:
        UsageError: the sink lies in the source, or an argument makes no sense.
        StorageError: the source, the sink or the ledger cannot be used.
    """
    asked = pipeline if isinstance(pipeline, Pipeline) else Pipeline.parse(pipeline)
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"quality = {quality}: must be from 1 to 100")
    job = Job(
        source=os.fspath(source),
        sink=os.fspath(sink),
        recipe=Recipe((Output(asked.steps, format=format, quality=quality),), decode, metadata),
        limits=limits or Limits(),
        include=tuple(include),
        exclude=tuple(exclude),
        if_exists=if_exists,
        retry_failed=retry_failed,
        memory=memory,
    )
    name, workers = choose_engine(engine, jobs)
    with Ledger(ledger) as book:
        opened = open_engine(name, workers)
        try:
            return Driver(job, opened, book, name, listeners).run()
        finally:
            opened.close()


def choose_engine(engine: str, jobs: int) -> tuple[str, int]:
    """The engine's name and its number of workers, for `auto` and 0: a thread for each core."""
    workers = jobs or available_cores()
    if engine == "auto":
        engine = "threads" if workers > 1 else "serial"
    return engine, 1 if engine == "serial" else workers


def available_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
