"""`imageloom demo`."""

from __future__ import annotations

from pathlib import Path

import click

from imageloom.cli.options.values import Whole
from imageloom.cli.text import say


@click.command("demo", short_help="Draw sample photos and run a pipeline over them.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path("imageloom-demo"))
@click.option(
    "--count", type=Whole(1, 10_000), default=60, show_default=True, help="Number of photos to draw."
)
@click.option(
    "--pipeline",
    default="resize 512x512 | grayscale",
    show_default=True,
    help="Pipeline to run over the photos.",
)
@click.pass_context
def command(context: click.Context, folder: Path, count: int, pipeline: str) -> int:
    """Draw sample photos into FOLDER/photos, and run a pipeline over them into FOLDER/out.

    \b
    imageloom demo
    imageloom demo /tmp/demo --count 200 --pipeline 'gaussian_blur 2 | canny 60 150'
    """
    from imageloom.bench.samples import draw_photos
    from imageloom.cli.run import command as run

    photos = folder / "photos"
    draw_photos(photos, count)
    say(f"drew {count} photos in {photos}; now: imageloom run '{pipeline}' {photos} {folder / 'out'}")
    arguments = [pipeline, str(photos), str(folder / "out"), "--ledger", str(folder / "ledger.db")]
    code: int = run.main(arguments, standalone_mode=False)
    return code
