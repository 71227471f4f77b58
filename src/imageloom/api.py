"""Jobs over many images: `process`, the equivalent of `imageloom run`, and `start` and `stream`, which do not
wait."""

from __future__ import annotations

import os
from typing import Unpack

from imageloom.interface import running
from imageloom.interface.options import Options, prepare, with_options
from imageloom.interface.running import Job, Stream
from imageloom.model import Recipe
from imageloom.recipes.pipeline import Pipeline
from imageloom.records.summary import Summary

Address = str | os.PathLike[str]


@with_options
def process(
    pipeline: Pipeline | Recipe | str, source: Address, sink: Address, **options: Unpack[Options]
) -> Summary:
    """Run a pipeline over the images of a folder, or over one file, and write the outputs into another folder.

    Items that an earlier run finished with the same pipeline and the same input are skipped. Ctrl-C stops the
    run; the same call resumes it. The options have the names and the meaning of those of `imageloom run`.

    With the engines `threads` and `serial`, a crash in a decoder ends this process, where `imageloom run` starts
    again; the same call then processes the image in another process and goes on.

    Args:
        pipeline: the steps for each image, as text or as a Pipeline. A Recipe makes several outputs of each
            image, and has format, quality and the like itself.
        source: address of a folder or a file: a path, or an address such as `s3://bucket/folder`.
        sink: address of a folder; it is created if it does not exist. Of one file to one file: a path with
            the suffix of a format.
        options: see `Options`.

    Returns:
        The numbers of done, failed and skipped items, the first failures, what was lost and what was left
        out. Failed items raise no exception.

    Raises:
        UsageError: an argument is invalid, or the sink lies inside the source.
        StorageError: the source, the sink or the ledger cannot be used.
        MissingExtra: an optional dependency is not installed.
        EngineFailed: the engine cannot continue; the same call resumes the run.
    """
    return running.run(prepare(pipeline, source, sink, options))


@with_options
def start(
    pipeline: Pipeline | Recipe | str, source: Address, sink: Address, **options: Unpack[Options]
) -> Job:
    """Start a job as `process` does, and return at once: it runs in a thread of this process.

    Args:
        pipeline, source, sink, options: see `process`.

    Returns:
        The job, to wait for (`job.wait()`, `await job`), to stop and to ask.

    Raises:
        UsageError, StorageError, MissingExtra: see `process`.
    """
    return Job(prepare(pipeline, source, sink, options))._start()


@with_options
def stream(
    pipeline: Pipeline | Recipe | str, source: Address, sink: Address, **options: Unpack[Options]
) -> Stream:
    """Start a job as `process` does, and iterate over the results of its items in the order in which they
    end.

        for item in imageloom.stream("resize 512x", "photos/", "small/"):
            print(item.key, item.state, item.outputs)

    In a coroutine, use `async for`. `close` stops the job.

    Args:
        pipeline, source, sink, options: see `process`.

    Returns:
        An iterator of `ItemResult`. If the job has to end early, the iterator raises the error at its end.

    Raises:
        UsageError, StorageError, MissingExtra: see `process`.
    """
    return Stream(prepare(pipeline, source, sink, options))
