"""Checks the source and the sink of a job for usual mistakes, before anything is read or written."""

from __future__ import annotations

import os
import re

from msgspec.structs import replace

from imageloom import codecs
from imageloom.errors import UsageError
from imageloom.model import Job

_WINDOWS = re.compile(r"[A-Za-z]:[\\/]")


def checked(job: Job) -> Job:
    """The job with its places as they are meant.

    If the source is one file, and the sink is a name with the suffix of a format, the output is a file of that
    name: its folder becomes the sink.

    Raises:
        UsageError: a place is empty, or looks as if the shell should have replaced a part of it; or the sink takes
            no shards.
    """
    for what, address in (("source", job.source), ("sink", job.sink)):
        _check(what, address)
    if "://" in job.sink:
        from imageloom.stores.fsspec import READ_ONLY  # few sinks are addresses

        if reason := READ_ONLY.get(job.sink.partition("://")[0]):
            raise UsageError(f"the sink {job.sink!r} cannot be written: {reason}; give a folder or a bucket")
    if job.shard and job.sink.startswith("gdrive:"):
        raise UsageError(
            "--shard excludes a sink in Google Drive, where runs that make a folder at the same time make two of "
            "that name: give a folder or a bucket"
        )
    return _to_one_file(job) if _is_one_file(job) else job


def _check(what: str, address: str) -> None:
    if not address.strip():
        raise UsageError(
            f"the {what} is empty: give a folder or an address; if it is a variable of the shell, it is not set"
        )
    if address.startswith("~"):
        rest = address[1:].lstrip("/")
        raise UsageError(
            f"the {what} {address!r} begins with '~', which the shell replaces only outside of quotes: write "
            f'"$HOME/{rest}", or ./{address} for a folder of that name'
        )
    if os.name == "posix" and _WINDOWS.match(address):
        raise UsageError(
            f"the {what} {address!r} is a path of Windows: on this system give a path such as /mnt/c/photos, or "
            f"./{address} for a folder of that name"
        )


def _is_one_file(job: Job) -> bool:
    name = job.sink.rstrip("/").rpartition("/")[2]
    return (
        not job.in_place
        and "://" not in job.source
        and os.path.isfile(job.source)
        and not job.sink.endswith("/")
        and codecs.format_of(name) is not None
        and "{" not in name
        and not os.path.isdir(job.sink)
    )


def _to_one_file(job: Job) -> Job:
    folder, _, name = job.sink.rpartition("/")
    if job.sink.endswith(f"://{name}") or len(job.recipe.outputs) != 1:
        return job
    (output,) = job.recipe.outputs
    found = codecs.format_of(name)
    if output.format not in (None, found):
        raise UsageError(
            f"the output's name {name!r} says {found}, but its format is {output.format} (--format): give a name "
            f"with the suffix .{codecs.suffixes(output.format)[0]}, or a folder"
        )
    outputs = (replace(output, format=found),)
    place = folder or ("/" if job.sink.startswith("/") else ".")
    return replace(job, sink=place, name=name, recipe=replace(job.recipe, outputs=outputs))
