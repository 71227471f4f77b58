"""`imageloom plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from imageloom.cli import options
from imageloom.cli.options import Quantity

if TYPE_CHECKING:
    from imageloom.model import Decode, Keep


@click.command("plan", short_help="Explain what would be done to a file, and why.")
@click.argument("pipeline")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@options.operators_option
@options.recipe_options
@click.option("-j", "--jobs", type=click.IntRange(1, 1024), help="Workers.  [one for each core]")
@click.option(
    "--memory", type=Quantity(), help="Bytes that the work in hand may need.  [half of the machine's]"
)
@click.option("--tile", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True)
@options.limit_options
def command(
    pipeline: str,
    file: Path,
    operators: tuple[str, ...],
    format_: str | None,
    quality: int | None,
    decode: Decode,
    metadata: Keep,
    jobs: int | None,
    memory: int | None,
    tile: Literal["auto", "always", "never"],
    max_pixels: int,
    max_file_size: int,
    max_expansion: int,
) -> None:
    """Explain what PIPELINE does to the image FILE, and why: the steps after all rewrites, what the codec is
    asked for, the encoder, the memory. Only the header is read.

    \b
    imageloom plan 'resize 512x512 | grayscale' photo.jpg
    imageloom plan 'resize 50%' photo.jpg --decode exact
    """
    from imageloom import codecs, plan, tiles
    from imageloom.api import choose_engine
    from imageloom.assemble import part_rows
    from imageloom.engines import Settings
    from imageloom.large import needs_of
    from imageloom.machine import half_of_memory
    from imageloom.model import Job
    from imageloom.pipeline import to_text
    from imageloom.stores import open_store

    recipe = options.make_recipe(pipeline, (), operators, format_, quality, decode, metadata)
    store = open_store(str(file.parent))
    size = file.stat().st_size
    header = codecs.read_header(
        lambda length: store.head(file.name, length), size, lambda at, n: store.head(file.name, n, at)
    )
    plan.check_limits(header, options.limits(max_pixels, max_file_size, max_expansion), size)
    for line in plan.explain(header, recipe, size):
        click.echo(line)
    job = Job(str(file), "", recipe, tile=tile)
    engine, settings, why = choose_engine("auto", Settings(jobs or 0), job)
    planned = plan.make_plan(header, recipe)
    needs, budget = planned.bytes + size, memory or half_of_memory()
    tiled = plan.why_tiled(job, header, planned, needs, budget, settings.jobs, alone=True)
    click.echo(f"engine    {engine} with {settings.jobs}: {why}")
    if tiled is None:
        click.echo("run       whole: it fits, and small images keep all workers busy together")
        return
    most = max(needs_of(header, planned, size).values(), key=lambda need: need.bytes)
    click.echo(f"run       in tiles: {tiled}; {most.bytes / 1e6:,.0f} MB for each worker")
    for output in planned.outputs:
        for number, phase in enumerate(tiles.phases(output.steps, planned.decoded), 1):
            strips = -(-phase.frame.height // part_rows(phase.frame, tiles.ALIGNED))
            parts = f"one tile, for {phase.whole}" if phase.whole else f"{strips} strips"
            click.echo(f"phase {number}   {to_text(phase.steps) or 'measure only'}: {parts}")
