"""The Python API for whole jobs. `process` is the equivalent of `imageloom run`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime
from math import isfinite
from typing import Literal

from msgspec.structs import replace

from imageloom import operators
from imageloom.driver.choosing import checked_names, moment
from imageloom.driver.places import checked
from imageloom.driver.run import Driver
from imageloom.driver.validation import validated
from imageloom.engines import Settings, opened_engine
from imageloom.errors import UsageError
from imageloom.model import (
    Chroma,
    Colors,
    Damage,
    Decode,
    Format,
    GainMap,
    IfExists,
    Job,
    Keep,
    Limits,
    Links,
    Output,
    Pages,
    Recipe,
)
from imageloom.recipes.pipeline import Pipeline
from imageloom.recipes.recipe import parse_format
from imageloom.records.events import Listener
from imageloom.records.ledger import Ledger
from imageloom.records.recorder import Recorder
from imageloom.records.summary import Summary
from imageloom.stores import is_remote
from imageloom.system.machine import available_cores
from imageloom.system.sandbox import Mode, Sandbox
from imageloom.worker.guard import Guard

MOST_THREADS = 4
"""Most workers that `auto` runs as threads: a small photo holds Python's lock for about a tenth of its time."""


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
    subsampling: Chroma | None = None,
    decode: Decode = "safe",
    damage: Damage = "warn",
    metadata: Keep = "keep",
    pages: Pages = "first",
    density: int = 0,
    colors: Colors = "keep",
    gain_map: GainMap = "keep",
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    files: Iterable[str] | None = None,
    newer_than: datetime | str | float = 0.0,
    adopt: bool = False,
    prune: bool = False,
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
    durable: bool | None = None,
    sandbox: Mode = "auto",
    untrusted: bool = False,
    limits: Limits | None = None,
    ledger: str | os.PathLike[str] | None = None,
    timeline: bool = True,
    listeners: Iterable[Listener] = (),
) -> Summary:
    """Run a pipeline over the images of a folder, or over one file, and write the outputs into another folder.

    Items that an earlier run finished with the same pipeline and the same input are skipped.

    Args:
        pipeline: the steps for each image, as text or as a Pipeline. A Recipe makes several outputs of each image
            and has these options itself.
        source: address of a folder or a file: a path, or an address such as `s3://bucket/folder`.
        sink: address of a folder; it is created if it does not exist.
        engine: a name of `imageloom.engines.ENGINES`, an engine of an installed plug-in, or `auto`.
        connect: address of an existing cluster, for the engines that connect to one.
        jobs: number of workers on this machine. 0: one per core, or none if `bind` or `connect` brings workers.
        threads: number of threads in each worker process, for the engines that have worker processes.
        timeout: time-out of one item in seconds, for the engines that have worker processes.
        bind: address to listen on for external workers, for the engines that have such.
        keys: path of this side's key file; see `imageloom keys`.
        format: format of the outputs; None: the format of each input.
        quality: 1 to 100, for lossy formats; None: the format's default.
        subsampling: chroma subsampling of lossy formats; None: the format's default.
        decode: how far the decoder may shrink an image; see `Recipe`.
        damage: which damaged files are accepted; see `Recipe`.
        metadata: whether the outputs keep EXIF, XMP, the colour profile and the like. What an output cannot
            hold is dropped and reported (`keep`), or fails the item (`strict`).
        pages: which pages of a file are processed, each as an item of its own; not used with a Recipe.
        density: pixels per inch at which documents are drawn; 0: the format's default; not used with a Recipe.
        colors: whether the outputs keep the colours of the input, or are converted to sRGB.
        gain_map: whether the gain map of an Ultra HDR photo is processed along, or dropped.
        include: patterns of the names to process; by default all names with an image suffix.
        exclude: patterns of the names not to process. One pattern may be given as a text.
        files: names of the files to process, relative to the source; None: all of them.
        newer_than: process only files that were changed after this time: a datetime, seconds since the epoch, or
            a text as `--newer-than` takes it.
        prune: before the run, remove the outputs whose inputs are gone from the source: only those that imageloom
            made and that nobody has changed since.
        adopt: if the ledger was lost: an existing file with the bytes of an output becomes imageloom's again.
        if_exists: what to do if an output's name is taken by a file that imageloom did not make.
        retry_failed: process only the items that failed in an earlier run.
        memory: maximum memory of all items in progress together, in bytes; 0: half of the machine's memory.
        name: template of the output names, relative to the sink.
        in_place: replace each input by its output; source and sink are the same folder.
        tile: whether images are processed in tiles; the outputs are the same.
        items_at_once: maximum number of images in progress; 0: as many as memory and workers allow.
        scratch: folder for temporary pixel files of large images; by default inside the sink, if that is local.
        in_flight: number of requests in flight to remote storage; 0: tuned automatically.
        links: which symbolic links in a local source are read: all (`follow`), those that point inside the source
            (`inside`), or none (`refuse`). Any other link is a failed item.
        durable: flush outputs and ledger to the disk, so that a power cut loses no image that is recorded as done;
            None: only with `in_place`.
        sandbox: decode images and run operators in processes that can do nothing else: with the restrictions that
            the kernel has, except for formats with well-tested decoders if all operators are imageloom's own
            (`auto`); always, and only if the kernel has all restrictions (`require`); or never (`off`).
        untrusted: the images may be hostile: each one is processed in a new sandboxed process.
        limits: limits that are checked against an image's header, before it is decoded.
        ledger: path of the ledger; None: the ledger in the user's state directory.
        timeline: record the measurements for `imageloom report`.
        listeners: functions that are called with each event, in the calling thread.

    Returns:
        The numbers of done, failed and skipped items, and what was lost. Failed items raise no exception.

    Raises:
        UsageError: an argument is invalid, or the sink lies inside the source.
        StorageError: the source, the sink or the ledger cannot be used.
        MissingExtra: an optional dependency is not installed.
    """
    if untrusted and sandbox == "off":
        raise UsageError("untrusted=True needs a sandbox")
    own = Recipe(
        (validated(Output((), format=_format(format), quality=quality, subsampling=subsampling)),),
        decode,
        metadata=metadata,
        damage=damage,
        colors=colors,
        gain_map=gain_map,
        pages=pages,
        density=density,
    )
    recipe = _recipe(pipeline, validated(own))
    validated(Settings(jobs, threads, timeout, memory, connect, bind, keys))
    shortcut = sandbox == "auto" and not untrusted
    box = validated(Sandbox(sandbox, untrusted, shortcut, timeout, memory))
    job = validated(
        Job(
            source=_address("source", source),
            sink=_address("sink", sink),
            recipe=recipe,
            limits=limits or Limits(),
            include=_patterns(include),
            exclude=_patterns(exclude),
            if_exists=if_exists,
            retry_failed=retry_failed,
            memory=memory,
            name=name,
            in_place=in_place,
            tile=tile,
            items_at_once=items_at_once,
            scratch=os.path.abspath(_address("scratch", scratch)) if scratch else "",
            in_flight=in_flight,
            links=links,
            durable=durable,
            sandbox=box,
            files=None if files is None else checked_names(_texts("files", files)),
            newer_than=_moment(newer_than),
            adopt=adopt,
        )
    )
    job = checked(job)
    asked = validated(Settings(jobs, threads, timeout, memory, connect, bind, keys, sandbox=job.sandbox))
    engine, settings, _ = choose_engine(engine, asked, job)
    with (
        opened_engine(engine, settings) as opened,
        Ledger(ledger) as book,
        Recorder(book.path, job, engine, opened.capacity, timeline) as recorder,
    ):
        driver = Driver(job, opened, book, engine, (*recorder.listeners, *listeners))
        if prune:
            driver.prune()
        return driver.run()


def _format(name: object) -> Format | None:
    """The format with this name.

    Raises:
        UsageError: there is none.
    """
    if name is None:
        return None
    if not isinstance(name, str):
        raise UsageError(f"format = {name!r}: it must be the name of a format, such as 'png'")
    return parse_format(name)


def _address(what: str, given: object) -> str:
    if isinstance(given, (str, os.PathLike)) and isinstance(path := os.fspath(given), str):
        return path
    raise UsageError(f"{what} = {given!r}: it must be a path or an address")


def _patterns(given: object) -> tuple[str, ...]:
    """One pattern, or several."""
    if isinstance(given, str):
        return (given,)
    if isinstance(given, Iterable):
        return tuple(given)
    raise UsageError(f"{given!r} is no pattern: give texts such as '*.jpg'")


def _texts(what: str, given: object) -> list[str]:
    """Several texts."""
    if isinstance(given, Iterable) and not isinstance(given, (str, bytes)):
        found = list(given)
        if all(isinstance(text, str) for text in found):
            return found
    raise UsageError(f"{what} = {given!r}: give several texts, such as ['a.jpg', 'sub/b.jpg']")


def _moment(given: object) -> float:
    """A time in seconds since the epoch."""
    if isinstance(given, datetime):
        return given.timestamp()
    if isinstance(given, str):
        return moment(given)
    if isinstance(given, (int, float)) and not isinstance(given, bool) and isfinite(given):
        return float(given)
    raise UsageError(f"newer_than = {given!r}: give a datetime, or a text such as '2026-11-01' or '7d'")


def _recipe(pipeline: object, own: Recipe) -> Recipe:
    """The recipe for a pipeline.

    Args:
        own: the recipe with the other arguments, whose one output has no steps.

    Raises:
        UsageError: it is neither a pipeline nor a recipe, or a recipe is given together with other arguments.
    """
    if isinstance(pipeline, Recipe):
        if own != Recipe((Output(()),)):
            names = (
                ("format", "quality", "subsampling"),
                ("decode", "metadata", "damage", "colors", "gain_map"),
            )
            given = [n for n in names[0] if getattr(own.outputs[0], n) != getattr(Output(()), n)]
            given += [n for n in names[1] if getattr(own, n) != getattr(Recipe(()), n)]
            raise UsageError(f"a Recipe has its own {given[0]}: set it there, not as an argument")
        return validated(pipeline)
    if isinstance(pipeline, str):
        pipeline = Pipeline.parse(pipeline)
    if not isinstance(pipeline, Pipeline):
        raise UsageError(
            f"pipeline = {pipeline!r}: it must be a text such as 'resize 50%', a Pipeline or a Recipe"
        )
    return replace(own, outputs=(replace(own.outputs[0], steps=pipeline.steps),))


def _of_the_main_program(recipe: Recipe) -> str:
    """The name of an operator that is defined in the main program; "" if there is none."""
    names = {step.name for output in recipe.outputs for step in output.steps}
    return next((name for name in names if operators.get(name).function.__module__ == "__main__"), "")


def choose_engine(engine: str, settings: Settings, job: Job) -> tuple[str, Settings, str]:
    """Choose the engine for `auto`, and the number of workers for 0 jobs.

    Returns:
        The engine's name, its settings, and the reason for the choice.

    Raises:
        UsageError: an operator is defined in the main program, and the engine's workers are other processes.
    """
    jobs = settings.jobs or available_cores()
    if own := _of_the_main_program(job.recipe):
        if engine not in ("auto", "serial", "threads"):
            raise UsageError(
                f"the operator {own!r} is defined in the main program, which workers of the engine {engine} do "
                "not load: move it into a file and name the file (Recipe.operators, --operators), or use "
                "engine='threads'"
            )
        if engine == "auto":
            engine = "threads"
    if engine == "redis" and settings.connect:
        jobs, why = settings.jobs, "only the workers of --jobs run here; others connect to the Redis server"
    elif engine != "auto":
        why = "selected by --engine"
    elif job.sandbox.untrusted:
        engine, why = "processes", "the images are untrusted"
    elif job.recipe.operators:
        engine, why = "processes", "your own operators may crash, hang or hold Python's lock (the GIL)"
    elif jobs == 1:
        engine, why = "serial", "there is only one worker"
    elif jobs <= MOST_THREADS:
        engine, why = "threads", f"up to {MOST_THREADS} workers scale well as threads"
    else:
        engine, why = "processes", f"more than {MOST_THREADS} threads would wait for Python's lock (the GIL)"
    if settings.bind and not settings.jobs:  # external workers process the items
        jobs = 0
    waits = is_remote(job.source) or is_remote(job.sink)
    settings = replace(settings, jobs=jobs, waits=waits, in_flight=job.in_flight, guard=Guard.of(job))
    return engine, settings, why
