"""The Python interface to whole jobs: `process` does what `imageloom run` does."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing
from typing import Literal

from msgspec.structs import replace

from imageloom import operators
from imageloom.driver.run import Driver
from imageloom.engines import Settings, open_engine
from imageloom.errors import UsageError
from imageloom.model import Decode, Format, IfExists, Job, Keep, Limits, Links, Output, Recipe
from imageloom.recipes.pipeline import Pipeline
from imageloom.recipes.recipe import parse_format
from imageloom.records.events import Listener
from imageloom.records.ledger import Ledger
from imageloom.records.recorder import Recorder
from imageloom.records.summary import Summary
from imageloom.stores import is_remote
from imageloom.system.machine import available_cores
from imageloom.worker.guard import Guard

MOST_THREADS = 4
"""Workers that `auto` runs as threads: of a small photo's time about a tenth is Python's, one at a time."""


def process(
    pipeline: Pipeline | Recipe | str,
    source: str | os.PathLike[str],
    sink: str | os.PathLike[str],
    *,
    engine: str = "auto",
    connect: str = "",
    jobs: int = 0,
    threads: int = 1,
    timeout: float = 600.0,
    bind: str = "",
    keys: str = "",
    format: Format | None = None,
    quality: int | None = None,
    decode: Decode = "safe",
    metadata: Keep = "keep",
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    if_exists: IfExists = "error",
    retry_failed: bool = False,
    memory: int = 0,
    name: str = "{dir}/{stem}.{ext}",
    in_place: bool = False,
    tile: Literal["auto", "always", "never"] = "auto",
    items_at_once: int = 0,
    scratch: str | os.PathLike[str] = "",
    in_flight: int = 0,
    links: Links = "follow",
    limits: Limits | None = None,
    ledger: str | os.PathLike[str] | None = None,
    timeline: bool = True,
    listeners: Iterable[Listener] = (),
) -> Summary:
    """Run a pipeline over the images of a folder, or over one file, into another folder.

    What was done before, with the same pipeline and the same input, is not done again.

    Args:
        pipeline: what is done to each image; a recipe makes several outputs of it, and format, quality and
            decode are then its own.
        source: the address of a folder or a file: a path, or `s3://bucket/folder` and the like.
        sink: the address of a folder; made where there is none.
        engine: a name of `imageloom.engines.ENGINES`, that of a plug-in, or `auto`.
        jobs: workers here; 0 for one for each core, or for none where workers elsewhere do it.
        threads: in each worker process, where the engine has such.
        timeout: seconds that an item may take, where the engine has worker processes.
        connect: the address of an existing cluster, for the engines that take one.
        bind: the address that workers elsewhere connect to, where the engine has such.
        keys: the file of the keys that this side proves itself with.
        format: of the outputs; None for that of each input.
        quality: 1 to 100, for lossy formats.
        decode: how far a shrinking decode may go; see `Recipe`.
        metadata: whether EXIF, XMP and the colour profile go along.
        include: patterns of names; by default all names with the suffix of an image.
        exclude: patterns of names to leave out.
        if_exists: what happens where a file that imageloom did not make has an output's name.
        retry_failed: do only the items that failed before.
        memory: bytes that the work in hand may need together; 0 for half of the machine's.
        name: how outputs are named below the sink.
        in_place: put each output in the place of its input; source and sink are the same folder.
        tile: whether images are done in tiles; the result is the same.
        items_at_once: images under way at one time; 0 for as many as there is room for.
        scratch: a folder for the pixels of large images; by default one in the sink, if that is local.
        in_flight: requests in flight on stores that are not local; 0 for as many as measuring finds.
        links: which links in a local source are followed: all, those that lead to a place inside of it
            (`inside`), or none (`refuse`); the others are items that fail.
        limits: what is refused from the header alone.
        ledger: the file of the ledger; None for the one in the user's state directory.
        timeline: record what is measured, for `imageloom report`.
        listeners: called with each event, in the calling thread.

    Raises:
        UsageError: the sink lies in the source, or an argument makes no sense.
        StorageError: the source, the sink or the ledger cannot be used.
    """
    if isinstance(pipeline, str):
        pipeline = Pipeline.parse(pipeline)
    if isinstance(pipeline, Pipeline):
        chosen = parse_format(format) if format is not None else None
        pipeline = Recipe(
            (Output(pipeline.steps, format=chosen, quality=quality),), decode, metadata=metadata
        )
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"quality = {quality}: must be from 1 to 100")
    job = Job(
        source=os.fspath(source),
        sink=os.fspath(sink),
        recipe=pipeline,
        limits=limits or Limits(),
        include=tuple(include),
        exclude=tuple(exclude),
        if_exists=if_exists,
        retry_failed=retry_failed,
        memory=memory,
        name=name,
        in_place=in_place,
        tile=tile,
        items_at_once=items_at_once,
        scratch=os.path.abspath(scratch) if scratch else "",
        in_flight=in_flight,
        links=links,
    )
    asked = Settings(jobs, threads, timeout, memory, connect, bind, keys)
    engine, settings, _ = choose_engine(engine, asked, job)
    with (
        closing(open_engine(engine, settings)) as opened,
        Ledger(ledger) as book,
        Recorder(book.path, job, engine, opened.capacity, timeline) as recorder,
    ):
        return Driver(job, opened, book, engine, (*recorder.listeners, *listeners)).run()


def _of_the_main_program(recipe: Recipe) -> str:
    """The name of an operator that the script itself defines; empty where there is none."""
    names = {step.name for output in recipe.outputs for step in output.steps}
    return next((name for name in names if operators.get(name).function.__module__ == "__main__"), "")


def choose_engine(engine: str, settings: Settings, job: Job) -> tuple[str, Settings, str]:
    """The engine's name, its settings, and why, for `auto` and 0 jobs.

    Raises:
        UsageError: an operator is of the main program, which only threads of it know.
    """
    jobs = settings.jobs or available_cores()
    if own := _of_the_main_program(job.recipe):
        if engine not in ("auto", "serial", "threads"):
            raise UsageError(
                f"the operator {own!r} is of the main program, which workers of {engine} do not load: "
                "put it into a file and give that (Recipe.operators, --operators), or take the engine threads"
            )
        if engine == "auto":
            engine = "threads"
    if engine == "redis" and settings.connect:
        jobs, why = settings.jobs, "its workers are elsewhere, but for those of --jobs"
    elif engine != "auto":
        why = "it was asked for"
    elif job.recipe.operators:
        engine, why = "processes", "operators of your own may crash, hang or hold the interpreter's lock"
    elif jobs == 1:
        engine, why = "serial", "there is one worker"
    elif jobs <= MOST_THREADS:
        engine, why = "threads", f"up to {MOST_THREADS} workers share one interpreter well"
    else:
        engine, why = "processes", f"more than {MOST_THREADS} workers wait for one interpreter's lock"
    if settings.bind and not settings.jobs:  # workers elsewhere do it
        jobs = 0
    waits = is_remote(job.source) or is_remote(job.sink)
    settings = replace(settings, jobs=jobs, waits=waits, in_flight=job.in_flight, guard=Guard.of(job))
    return engine, settings, why
