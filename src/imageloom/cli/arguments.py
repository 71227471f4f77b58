"""Builds the job and chooses the engine from the arguments and options that several commands share."""

from __future__ import annotations

import gc
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imageloom.cli import options
from imageloom.model import Chroma, Colors, Damage, Decode, GainMap, Keep, Limits, Output, Recipe

if TYPE_CHECKING:
    from imageloom.engines import Settings
    from imageloom.model import Job

_OF_RECIPES = (
    *("format_", "quality", "decode", "metadata", "subsampling", "damage", "colors", "gain_map"),
    *("max_bytes", "lossless", "progressive", "effort", "only_if_smaller", "widths", "formats"),
)
"""Names of the options of `options.recipe_options`."""
_EXAMPLES = {"PIPELINE": "'resize 50%'", "SOURCE": "photos/", "SINK": "out/"}

COLLECT_AFTER = 5_000
"""Number of new objects after which the garbage collector runs."""


def collect_garbage() -> None:
    """Turn the garbage collector on, for a command that runs long. It runs rarely: images make few cycles."""
    gc.freeze()  # imported modules are never garbage
    gc.set_threshold(COLLECT_AFTER)
    gc.enable()


def places(arguments: tuple[str, ...], has_outputs: bool, in_place: bool) -> tuple[str | None, str, str]:
    """Pipeline, source and sink. There is no PIPELINE argument with --output, and no SINK with --in-place.

    Raises:
        click.UsageError: there are too few or too many arguments.
    """
    wanted = ["SOURCE"] if has_outputs else ["PIPELINE", "SOURCE"]
    if not in_place:
        wanted.append("SINK")
    if len(arguments) != len(wanted):
        why = (
            " (--output replaces PIPELINE)"
            if has_outputs
            else " (--in-place has no SINK)"
            if in_place
            else ""
        )
        example = " ".join(_EXAMPLES[name] for name in wanted)
        if len(arguments) > len(wanted):
            why += _unquoted(arguments)
        raise click.UsageError(
            f"expected {len(wanted)} arguments, {' '.join(wanted)}{why}, but {len(arguments)} are given; for "
            f"example: {example}"
        )
    if wanted[0] == "PIPELINE" and _is_folder(arguments[0]) and not _is_folder(arguments[-1]):
        ordered = " ".join(map(shlex.quote, (arguments[-1], *arguments[:-1])))
        raise click.UsageError(f"{arguments[0]} is a folder; PIPELINE is the first argument: {ordered}")
    given = dict(zip(wanted, arguments, strict=True))
    if "PIPELINE" in given:
        check_pipeline(given["PIPELINE"])
    return given.get("PIPELINE"), given["SOURCE"], given.get("SINK", given["SOURCE"])


def check_pipeline(text: str) -> None:
    """Refuse a file that cannot be a recipe in the place of a pipeline.

    Raises:
        click.UsageError: it is a file, and its name does not end in .yaml.
    """
    if not text.endswith((".yaml", ".yml")) and os.path.isfile(text):
        raise click.UsageError(
            f"PIPELINE is {text!r}, a file: give steps such as 'resize 50% | grayscale', or a recipe, whose name "
            "ends in .yaml"
        )


def _unquoted(arguments: tuple[str, ...]) -> str:
    """Why there are too many arguments, if the shell has split a pipeline or has listed files."""
    if sum(map(os.path.isfile, arguments)) > 1:
        return " (for several files, give their folder and --include '*.jpg')"
    return " (write PIPELINE in quotes)" if not os.path.exists(arguments[1]) else ""


def _is_folder(argument: str) -> bool:
    return "://" in argument or os.path.isdir(argument)


def make_job(arguments: tuple[str, ...], given: Mapping[str, Any]) -> Job:
    """Build the job from the arguments and options.

    Args:
        given: the command's options by name. An option that the command lacks has the default of `Job`.
    """
    from msgspec.structs import replace

    from imageloom.driver.choosing import moment
    from imageloom.driver.places import checked
    from imageloom.model import Job, Shard

    in_place = given.get("in_place", False)
    pipeline, source, sink = places(arguments, bool(given["outputs"]), in_place)
    encoding = {name: given[name] for name in _OF_RECIPES}
    name = "{stem}.{ext}" if given.get("flatten") else given["name"]
    recipe = make_recipe(pipeline, given["outputs"], given["operators"], name=name, **encoding)
    pages = given.get("pages")
    if in_place and pages == "first":
        pages = 1  # asked for in so many words: the other pages may be lost
    recipe = replace(recipe, pages=pages or "first", density=given.get("density") or 0)
    return checked(
        Job(
            source,
            sink,
            recipe,
            limits(given["max_pixels"], given["max_file_size"], given["max_expansion"]),
            given["include"],
            given["exclude"],
            given["if_exists"],
            given.get("retry_failed", False),
            given.get("memory") or 0,
            name,
            in_place,
            given.get("tile", "auto"),
            given.get("items_at_once", 0),
            given.get("scratch") or "",
            given.get("in_flight") or 0,
            links=given["links"],
            durable=given.get("durable"),
            sandbox=options.sandbox_of(
                given.get("sandbox"),
                given.get("untrusted", False),
                given.get("timeout", 0.0),
                given.get("memory") or 0,
            ),
            files=_names(given.get("files_from"), given.get("null", False)),
            newer_than=moment(newer) if (newer := given.get("newer_than")) else 0.0,
            adopt=given.get("adopt", False),
            shard=Shard.of(shard) if (shard := given.get("shard")) else None,
        )
    )


def _names(path: str | None, by_null: bool) -> tuple[str, ...] | None:
    """The names in the list of --files-from; "-" is stdin."""
    from imageloom.driver.choosing import names_in

    if path is None:
        if by_null:
            raise click.UsageError("--null is about the names of --files-from: give both")
        return None
    if path == "-":
        return names_in(sys.stdin.buffer.read(), "stdin", by_null)
    return names_in(Path(path).read_bytes(), path, by_null)


def job_and_engine(
    arguments: tuple[str, ...], engine: str, given: Mapping[str, Any]
) -> tuple[Job, str, Settings]:
    """The job, its engine's name and settings. In an MPI job, only rank 0 prints from here on."""
    from msgspec.structs import replace

    from imageloom.engines import Settings
    from imageloom.interface.choice import choose_engine

    if engine == "mpi":
        from imageloom.engines.mpi.engine import silence_all_but_the_first

        silence_all_but_the_first()
    job = make_job(arguments, given)
    jobs, connect, bind, nodes = (given[name] for name in ("jobs", "connect", "bind", "nodes"))
    if jobs == 0 and not (bind or connect):
        raise click.UsageError(
            "--jobs 0 starts no workers: it needs --bind or --connect for workers elsewhere"
        )
    if nodes and engine == "auto":
        engine = "nodes"
    threads, timeout, keys = (given[name] for name in ("threads", "timeout", "keys"))
    asked = Settings(jobs or 0, threads, timeout, job.memory, connect, bind, keys, nodes or "")
    asked = replace(asked, sandbox=job.sandbox)
    chosen, settings, _ = choose_engine(engine, asked, job)
    return job, chosen, settings


def make_recipe(
    pipeline: str | None,
    outputs: tuple[str, ...],
    operators: tuple[str, ...],
    format_: str | None,
    quality: int | None,
    decode: Decode,
    metadata: Keep,
    subsampling: Chroma | None = None,
    damage: Damage = "warn",
    colors: Colors = "keep",
    gain_map: GainMap = "keep",
    max_bytes: int | None = None,
    lossless: bool = False,
    progressive: bool = False,
    effort: int | None = None,
    only_if_smaller: bool = False,
    widths: tuple[int, ...] | None = None,
    formats: tuple[str, ...] | None = None,
    name: str = "",
) -> Recipe:
    """Build the recipe from the arguments. Flags set only what the recipe does not set itself.

    Args:
        name: the template of --name, for the names of a set of widths or formats.
    """
    from msgspec.structs import replace

    from imageloom.recipes import recipe as recipes
    from imageloom.recipes.checking import checked
    from imageloom.recipes.formats import parse_format
    from imageloom.recipes.responsive import with_set

    if pipeline is not None:
        found = recipes.read_recipe(pipeline, operators)
    else:
        loaded = recipes.with_operators(Recipe(()), operators)
        found = replace(loaded, outputs=tuple(recipes.parse_output(text) for text in outputs))
    if format_ is not None and formats:
        raise click.UsageError("--format excludes --formats")
    chosen = parse_format(format_) if format_ is not None else None
    several = tuple(map(parse_format, formats or ()))

    def with_flags(output: Output) -> tuple[Output, ...]:
        made = replace(
            output,
            format=output.format or chosen,
            quality=output.quality if output.quality is not None or output.lossless else quality,
            subsampling=output.subsampling or subsampling,
            max_bytes=output.max_bytes or max_bytes or 0,
            lossless=output.lossless or lossless,
            progressive=output.progressive or progressive,
            effort=output.effort or effort,
            only_if_smaller=output.only_if_smaller or only_if_smaller,
        )
        return with_set(made, widths or (), several, name)

    recipe = replace(
        found,
        outputs=tuple(one for output in found.outputs for one in with_flags(output)),
        decode=decode if found.decode == "safe" else found.decode,
        damage=damage if found.damage == "warn" else found.damage,
        colors=colors if found.colors == "keep" else found.colors,
        gain_map=gain_map if found.gain_map == "keep" else found.gain_map,
        metadata=metadata if found.metadata == "keep" else found.metadata,
    )
    return checked(recipe)


def limits(max_pixels: int, max_file_size: int, max_expansion: int) -> Limits:
    return Limits(max_pixels, max_file_size, max_expansion)
