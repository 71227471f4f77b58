"""`imageloom plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from imageloom.cli import options

if TYPE_CHECKING:
    from imageloom.model import Decode, Keep


@click.command("plan", short_help="Explain what would be done to a file, and why.")
@click.argument("pipeline")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@options.operators_option
@options.recipe_options
@options.limit_options
def command(
    pipeline: str,
    file: Path,
    operators: tuple[str, ...],
    format_: str | None,
    quality: int | None,
    decode: Decode,
    metadata: Keep,
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
    from imageloom import codecs, plan
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
