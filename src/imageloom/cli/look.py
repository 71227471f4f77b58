"""`imageloom look`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imageloom.cli import arguments, options
from imageloom.cli.options.values import Whole
from imageloom.cli.text import say

if TYPE_CHECKING:
    from imageloom.model import Links


@click.command("look", short_help="Show a few images before and after a pipeline, as PNG or HTML.")
@click.argument("source", type=click.Path())
@click.argument("pipeline")
@click.option(
    "-o",
    "--to",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("look.png"),
    show_default=True,
    help="File to write, with the suffix .png or .html.",
)
@click.option("--count", type=Whole(1, 100), default=4, show_default=True, help="Number of images to show.")
@options.operators_option
@options.links_option("follow", "inside", "refuse")
@options.accept_host_keys_option
def command(
    source: str, pipeline: str, to: Path, count: int, operators: tuple[str, ...], links: Links
) -> int:
    """Show the first images of SOURCE (a folder or a file) before and after PIPELINE, in one PNG or HTML file.

    \b
    imageloom look photos/ 'gaussian_blur 2 | canny 60 150'
    imageloom look photos/ recipe.yaml --to look.html --count 8
    """
    if os.path.exists(pipeline) and not os.path.exists(source) and not pipeline.endswith((".yaml", ".yml")):
        ordered = f"imageloom look {shlex.quote(pipeline)} {shlex.quote(source)}"
        raise click.UsageError(f"SOURCE is the first argument, and PIPELINE the second: {ordered}")
    from imageloom.driver.source import Source
    from imageloom.errors import StorageError
    from imageloom.report import look

    recipe = arguments.make_recipe(pipeline, (), operators, None, None, "safe", "strip")
    if to.suffix.lower() not in (".png", ".html"):
        raise click.BadParameter(f"{to} must end in .png or .html", param_hint="--to")
    found = look.samples(Source(source, links=links), recipe, count)
    if not found:
        say("no image matched in the source", err=True)
        return 3
    made = look.to_png(found) if to.suffix.lower() == ".png" else look.to_html(pipeline, found).encode()
    try:
        to.write_bytes(made)
    except OSError as error:
        raise StorageError(f"cannot write {to}: {error.strerror}") from None
    say(f"{len(found)} images before and after: {to}")
    return 0
