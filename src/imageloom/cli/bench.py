"""`imageloom bench`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from imageloom.cli.text import say

SIZES = (500_000, 1_000_000, 4_000_000, 16_000_000)
QUICK_SIZES = (500_000, 4_000_000)
QUICK_LARGE = (3000, 2000)


class _Words(click.ParamType[tuple[str, ...]]):
    """Words between commas."""

    name = "words"

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(word.strip() for word in value.split(","))


@click.command("bench", short_help="Compare the engines on this machine, and write a report.")
@click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False, default=None
)
@click.option("--pipeline", default="resize 512x512", show_default=True, help="What is done to each image.")
@click.option("--count", type=click.IntRange(1), help="Images: the same ones again where there are fewer.")
@click.option(
    "--engines",
    type=_Words(),
    metavar="NAME,...",
    help="Only these: serial, threads, tiles, tiles-images, ...",
)
@click.option("--workers", type=_Words(), metavar="N,...", help="Numbers of workers.  [1,2,4,8]")
@click.option("--repeats", type=click.IntRange(1), help="Rounds over all of them.  [3]")
@click.option(
    "--kills", type=click.IntRange(0), help="Workers to kill in each run of the fault validation.  [3]"
)
@click.option("--sweep/--no-sweep", default=True, help="Try tile sizes on a large image.  [tried]")
@click.option("--peers", is_flag=True, help="Also vipsthumbnail, mogrify, gm, OpenCV and Pillow scripts.")
@click.option("--quick", is_flag=True, help="Few images, 1 and 2 workers, one round.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder for the report.  [beside the ledger]",
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
    """Run one pipeline over the photos of FOLDER, or over drawn ones, on every engine with several numbers of
    workers: whole programs, in turn, several times over. All outputs must be the serial engine's, byte for byte.
    Then tile sizes are tried on a large image, and workers killed amid their runs.

    The report is bench.html, one file that needs no network; bench.json has all that was measured; a table is
    shown here. What is not installed is named.

    \b
    imageloom bench
    imageloom bench photos/ --count 2000 --peers --out bench/
    imageloom bench photos/ --engines threads,processes --workers 2 --no-sweep
    imageloom bench --quick
    imageloom bench photos/ --pipeline 'gaussian_blur 3.5' --engines tiles,tiles-images,redis

    Exit codes: 0 all was equal; 1 something failed or made other bytes; 2 usage; 3 no image.
    """
    from imageloom.bench import Wanted, run_bench, write
    from imageloom.bench.configurations import WAYS
    from imageloom.bench.text import summary
    from imageloom.records.ledger import default_path

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
        raise click.BadParameter("give numbers from 1 to 1024 between commas", param_hint="--workers")
    return tuple(map(int, words))
