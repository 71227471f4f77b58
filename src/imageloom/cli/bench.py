"""`imageloom bench`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from imageloom.cli.options.values import Whole
from imageloom.cli.text import say

SIZES = (500_000, 1_000_000, 4_000_000, 16_000_000)
QUICK_SIZES = (500_000, 4_000_000)
QUICK_LARGE = (3000, 2000)


class _Words(click.ParamType[tuple[str, ...]]):
    """Words separated by commas."""

    name = "words"

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(word.strip() for word in value.split(","))


@click.command("bench", short_help="Compare the engines on this machine and write a report.")
@click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False, default=None
)
@click.option(
    "--pipeline", default="resize 512x512", show_default=True, help="Pipeline to run over each image."
)
@click.option(
    "--count",
    type=Whole(1),
    show_default="all of FOLDER",
    help="Number of images in each run. Images are used several times if FOLDER has fewer.",
)
@click.option(
    "--engines",
    type=_Words(),
    metavar="NAME,...",
    show_default="all",
    help="Engines to compare, separated by commas. 'tiles' and 'tiles-images' are two ways to use tiles.",
)
@click.option(
    "--workers",
    type=_Words(),
    metavar="N,...",
    show_default="1,2,4,8",
    help="Numbers of workers to compare, separated by commas.",
)
@click.option(
    "--repeats",
    type=Whole(1),
    show_default="3",
    help="Number of rounds. Each round runs every engine with every number of workers.",
)
@click.option(
    "--kills",
    type=Whole(0),
    show_default="3",
    help="Number of workers to kill in each run of the fault test.",
)
@click.option(
    "--sweep/--no-sweep", default=True, show_default=True, help="Compare tile sizes on one large image."
)
@click.option(
    "--peers",
    is_flag=True,
    help="Compare with vipsthumbnail, mogrify, gm, and OpenCV and Pillow scripts as well.",
)
@click.option("--quick", is_flag=True, help="Use few images, 1 and 2 workers, and one round.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    show_default="beside the ledger",
    help="Folder for the report.",
)
def command(
    folder: Path | None,
    pipeline: str,
    count: int | None,
    engines: tuple[str, ...] | None,
    workers: tuple[str, ...] | None,
    repeats: int | None,
    kills: int | None,
    sweep: bool,
    peers: bool,
    quick: bool,
    out: Path | None,
) -> int:
    """Compare the engines: run one pipeline on every engine with several numbers of workers, in several rounds.

    The photos are those of FOLDER, or drawn samples. Each run is a separate program. All outputs must be
    identical, byte for byte, to those of the serial engine. Then tile sizes are compared on a large image, and
    workers are killed during runs to test that no item is lost.

    The report is bench.html, one file that needs no network. bench.json has all measurements. A table is printed.
    Engines and programs that are not installed are listed.

    \b
    imageloom bench
    imageloom bench photos/ --count 2000 --peers --out bench/
    imageloom bench photos/ --engines threads,processes --workers 2 --no-sweep
    imageloom bench --quick
    imageloom bench photos/ --pipeline 'gaussian_blur 3.5' --engines tiles,tiles-images,redis

    Exit codes: 0 all outputs were identical; 1 a run failed or its outputs differ; 2 usage error; 3 no image
    found.
    """
    from imageloom.bench import Wanted, run_bench, write
    from imageloom.bench.configurations import WAYS
    from imageloom.bench.text import summary
    from imageloom.recipes.pipeline import Pipeline
    from imageloom.records.ledger import default_path

    Pipeline.parse(pipeline)
    wanted = Wanted(
        pipeline=pipeline,
        names=engines or tuple(WAYS),
        workers=_numbers(workers) if workers else (1, 2) if quick else (1, 2, 4, 8),
        repeats=repeats or (1 if quick else 3),
        count=count or (96 if quick and folder is None else 0),
        peers=peers,
        sizes=() if not sweep else QUICK_SIZES if quick else SIZES,
        large=QUICK_LARGE if quick else (8000, 6000),
        kills=kills if kills is not None else 1 if quick else 3,
    )
    out = out or default_path().parent / "bench" / time.strftime("%Y-%m-%d-%H%M%S")
    bench = run_bench(wanted, folder, lambda text: say(text, err=True))
    write(bench, out)
    say(*summary(bench).split("\n"), "", str(out / "bench.html"))
    return 1 if bench.wrong else 0


def _numbers(words: tuple[str, ...]) -> tuple[int, ...]:
    if not all(word.isdecimal() and 0 < int(word) <= 1024 for word in words):
        raise click.BadParameter(
            "give numbers from 1 to 1024, separated by commas, such as 1,2,4", param_hint="--workers"
        )
    return tuple(map(int, words))
