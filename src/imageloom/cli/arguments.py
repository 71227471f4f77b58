"""What arguments and options mean that several commands share: a job, an engine."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from imageloom.cli import options

if TYPE_CHECKING:
    from imageloom.engines import Settings
    from imageloom.model import Job

MANY = 5_000
"""New objects after which the garbage among them is looked for."""


def collect_garbage() -> None:
    """Turn the collector on for a command that goes on for long: an image leaves hardly any cycles behind."""
    gc.freeze()  # what was imported stays
    gc.set_threshold(MANY)
    gc.enable()


def places(arguments: tuple[str, ...], has_outputs: bool, in_place: bool) -> tuple[str | None, str, str]:
    """Pipeline, source and sink of the arguments: the pipeline is missing with --output, the sink in place."""
    wanted = ["SOURCE"] if has_outputs else ["PIPELINE", "SOURCE"]
    if not in_place:
        wanted.append("SINK")
    if len(arguments) != len(wanted):
        raise click.UsageError(f"give {' '.join(wanted)}, not {len(arguments)} arguments")
    given = dict(zip(wanted, arguments, strict=True))
    return given.get("PIPELINE"), given["SOURCE"], given.get("SINK", given["SOURCE"])


def make_job(arguments: tuple[str, ...], given: Mapping[str, Any]) -> Job:
    """The job that is meant.

    Args:
        given: the command's options by name; what it does not have is as in `Job`.
    """
    from imageloom.model import Job

    in_place = given.get("in_place", False)
    pipeline, source, sink = places(arguments, bool(given["outputs"]), in_place)
    looks = (given["format_"], given["quality"], given["decode"], given["metadata"])
    return Job(
        source,
        sink,
        options.make_recipe(pipeline, given["outputs"], given["operators"], *looks),
        options.limits(given["max_pixels"], given["max_file_size"], given["max_expansion"]),
        given["include"],
        given["exclude"],
        given["if_exists"],
        given.get("retry_failed", False),
        given.get("memory") or 0,
        "{stem}.{ext}" if given.get("flatten") else given["name"],
        in_place,
        given.get("tile", "auto"),
        given.get("items_at_once", 0),
        given.get("scratch") or "",
        given.get("in_flight") or 0,
        links=given["links"],
    )


def job_and_engine(
    arguments: tuple[str, ...], engine: str, given: Mapping[str, Any]
) -> tuple[Job, str, Settings]:
    """The job, the engine for it, and how that is to run. An MPI job's other ranks are silent from here on."""
    from imageloom import api
    from imageloom.engines import Settings

    if engine == "mpi":
        from imageloom.engines.mpi.engine import silence_all_but_the_first

        silence_all_but_the_first()
    job = make_job(arguments, given)
    jobs, connect, bind, nodes = (given[name] for name in ("jobs", "connect", "bind", "nodes"))
    if jobs == 0 and not (bind or connect):
        raise click.UsageError("--jobs 0 leaves nobody to work but with --bind or --connect")
    if nodes and engine == "auto":
        engine = "nodes"
    threads, timeout, keys = (given[name] for name in ("threads", "timeout", "keys"))
    asked = Settings(jobs or 0, threads, timeout, job.memory, connect, bind, keys, nodes or "")
    chosen, settings, _ = api.choose_engine(engine, asked, job)
    return job, chosen, settings
