"""`imageloom plan`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from imageloom.cli import arguments, options
from imageloom.cli.options.values import Whole
from imageloom.cli.text import say

if TYPE_CHECKING:
    from imageloom.model import Box, Header, Links, Recipe
    from imageloom.recipes.plan import Plan
    from imageloom.tiling.large import Need
    from imageloom.tiling.tiles import Phase


@click.command("plan", short_help="Explain how one image would be processed, and why.")
@click.argument("pipeline")
@click.argument("file", type=click.Path(path_type=Path))
@options.operators_option
@options.recipe_options
@click.option(
    "-j",
    "--jobs",
    type=Whole(1, 1024),
    show_default="one per core",
    help="Number of workers to plan for.",
)
@options.memory_option
@options.tile_option
@options.links_option("follow", "inside", "refuse")
@options.limit_options
def command(
    pipeline: str,
    file: Path,
    operators: tuple[str, ...],
    jobs: int | None,
    memory: int | None,
    tile: Literal["auto", "always", "never"],
    links: Links,
    max_pixels: int,
    max_file_size: int,
    max_expansion: int,
    **encoding: Any,
) -> None:
    """Explain how PIPELINE would process the image FILE, without processing it. Only its header and metadata
    are read.

    Printed are the steps after optimization, the decoder and the encoder, what metadata would be kept and dropped,
    the memory, the engine, and the tiles (their number, size and memory) if the image would be processed in tiles.

    \b
    imageloom plan 'resize 512x512 | grayscale' photo.jpg
    imageloom plan 'resize 50%' photo.jpg --decode exact
    """
    if not file.is_file():
        if Path(pipeline).is_file():
            ordered = f"imageloom plan {shlex.quote(str(file))} {shlex.quote(pipeline)}"
            raise click.UsageError(f"PIPELINE is the first argument, and FILE the second: {ordered}")
        wrong = "is a folder" if file.is_dir() else "does not exist"
        raise click.UsageError(f"FILE {str(file)!r} {wrong}: give one image, such as photos/a.jpg")
    arguments.check_pipeline(pipeline)
    from imageloom import codecs
    from imageloom.driver.source import Source
    from imageloom.engines import Settings
    from imageloom.errors import UnreadableItem
    from imageloom.interface.choice import choose_engine
    from imageloom.model import Item, Job
    from imageloom.recipes import parting, plan
    from imageloom.recipes.explain import explain
    from imageloom.records.faults import blamed_on
    from imageloom.system.machine import half_of_memory
    from imageloom.tiling.large import Need, needs_of

    recipe = arguments.make_recipe(pipeline, (), operators, **encoding)
    with blamed_on(file.name):
        source = Source(str(file), links=links)
        (item,) = source
        if not isinstance(item, Item):
            raise UnreadableItem(item.failure.message)
        key, size = item.key, item.size
        header = codecs.read_header(
            lambda length: source.store.head(key, length), size, lambda at, n: source.store.head(key, n, at)
        )
        plan.check_limits(header, arguments.limits(max_pixels, max_file_size, max_expansion), size)
        path = source.store.path(key)
        found = codecs.metadata_of(path, header.format) if path and recipe.metadata != "strip" else None
        for line in explain(header, recipe, size, found):
            say(line)
        job = Job(str(file), "", recipe, tile=tile)
        engine, settings, why = choose_engine("auto", Settings(jobs or 0), job)
        say(f"engine    {engine} with {settings.jobs}: {why}")
        say(f"sandbox   {_sandbox(header, recipe)}")
        planned = plan.make_plan(header, recipe)
        needs, budget = planned.bytes + size, memory or half_of_memory()
        tiled = parting.why_tiled(job, header, planned, needs, budget, settings.jobs, alone=True)
        most = Need(needs, "it")
        if tiled is None:
            say(f"run       whole: {parting.why_whole(job, planned)}")
        else:
            table = needs_of(header, planned, size)
            most = max(table.values(), key=lambda need: need.bytes)
            say(f"run       in tiles: {tiled}")
            for line in _parts(header, planned, table, settings.jobs):
                say(line)
        if most.bytes > budget:
            say(f"refused   {most.what} needs {most.bytes:,} bytes, over the limit of {budget:,} (--memory)")


def _sandbox(header: Header, recipe: Recipe) -> str:
    """In which process an item would be decoded."""
    from imageloom.system.confinement import state
    from imageloom.system.sandbox import Sandbox
    from imageloom.worker.sandbox import is_needed

    if is_needed(Sandbox("auto", shortcut=True), recipe, header):
        return f"decoded in a process of its own, with {state()} (--sandbox)"
    return f"not needed for this {header.format} file (--untrusted decodes it in a process of its own)"


def _parts(header: Header, planned: Plan, table: dict[tuple[int, int], Need], workers: int) -> Iterator[str]:
    """One line for each phase of a tiled run."""
    from imageloom.tiling import tiles
    from imageloom.tiling.assemble import parts_of
    from imageloom.tiling.large import LOADING

    yield f"          {_loading(header, table[LOADING].bytes)}"
    for number, output in enumerate(planned.outputs):
        phases = tiles.phases(output.steps, planned.decoded)
        for at, phase in enumerate(phases):
            boxes = parts_of(phases, at, output, workers)
            yield f"phase {at + 1}   {_steps(phase)}"
            yield f"          {_tiles(phase, boxes)}; {_megabytes(table[number, at].bytes)} per tile"
            if phase.whole:
                yield f"          it cannot be tiled: {phase.whole}"
        last = table.get((number, len(phases)))
        if last is None:
            yield f"encode    {output.format}, each tile separately, as soon as it is ready"
        else:
            yield f"encode    {output.format}, as a whole, after all tiles; {_megabytes(last.bytes)}"


def _loading(header: Header, needs: int) -> str:
    if needs:
        return f"the whole image is decoded before the tiles; {_megabytes(needs)}"
    if header.format == "tiff":
        return "each tile is read from the file separately, if the file's layout allows it"
    return "decoded in strips from top to bottom, ahead of the tiles, into shared memory or a temporary file"


def _steps(phase: Phase) -> str:
    """The steps of a phase as text; internal steps are shown by name only."""
    from imageloom import operators
    from imageloom.recipes.pipeline import to_text

    names = [step.name if operators.get(step.name).hidden else to_text([step]) for step in phase.steps]
    done = " | ".join(names)
    if not phase.measured:
        return done or "the unchanged pixels"
    return (
        f"{done}, then a measurement for {phase.measured.name}"
        if done
        else f"a measurement for {phase.measured.name}"
    )


def _tiles(phase: Phase, boxes: list[Box]) -> str:
    from imageloom import operators
    from imageloom.tiling import tiles

    if len(boxes) == 1:
        return "one tile"
    middle = boxes[len(boxes) // 2]
    text = f"{len(boxes)} tiles of {middle.width}x{middle.height}"
    if phase.steps and operators.get(phase.steps[0].name).measured:
        return text
    read = tiles.tile(phase, middle).read
    same = (read.width, read.height) == (middle.width, middle.height)
    return (
        text if same else f"{text}, each computed from {read.width}x{read.height} pixels of the phase's input"
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
