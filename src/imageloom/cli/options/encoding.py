"""Options that say what is made of each image."""

from __future__ import annotations

import click

from imageloom.cli.options.values import C, Items, PageChoice, Quantity, Whole, together

outputs_option = click.option(
    "--output",
    "outputs",
    multiple=True,
    metavar="NAME=PIPELINE",
    help="Output of each image: the folder NAME in SINK, and the pipeline. Repeatable; replaces PIPELINE.",
)


operators_option = click.option(
    "--operators",
    multiple=True,
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Python file that defines operators: your own, or those that a recipe names. Its code is executed. "
    "Repeatable.",
)


_STRICT = "imageloom.strict"


def _strict_metadata(context: click.Context, option: click.Parameter, is_given: bool) -> None:
    context.meta[_STRICT] = is_given


def _metadata(context: click.Context, option: click.Parameter, value: str) -> str:
    if not context.meta.get(_STRICT):
        return value
    if value == "strip":
        raise click.UsageError("--strict-metadata excludes --metadata strip")
    return "strict"


def recipe_options(command: C) -> C:
    """Add the options that determine the bytes of the outputs."""
    return together(
        command,
        click.option(
            "--format",
            "format_",
            metavar="FORMAT",
            show_default="the format of the input",
            help="Format of the outputs: jpeg, png, webp, tiff, bmp, pnm, avif, heif, jxl, jp2 or zarr.",
        ),
        click.option(
            "--quality",
            type=Whole(1, 100),
            show_default="jpeg 85, webp 80, avif 60, heif 80, jxl 90",
            help="Quality of outputs in a lossy format, from 1 to 100.",
        ),
        click.option(
            "--subsampling",
            type=click.Choice(["keep", "444", "422", "420"]),
            show_default="420",
            help="Chroma subsampling of JPEG, AVIF and HEIF outputs. keep: that of the input, or else 420.",
        ),
        click.option(
            "--max-bytes",
            type=Quantity(),
            metavar="SIZE",
            help="Lower the quality of each output, from --quality on, until its file has at most this size, such "
            "as 200k. If the lowest quality is not enough, the image fails.",
        ),
        click.option(
            "--lossless", is_flag=True, help="Encode WebP, AVIF, HEIF and JPEG XL outputs without loss."
        ),
        click.option(
            "--progressive",
            is_flag=True,
            help="Write JPEG outputs in several scans: they appear early, and are smaller.",
        ),
        click.option(
            "--effort",
            type=Whole(1, 9),
            show_default="webp 6, avif 4, heif 7, jxl 5",
            help="Time to spend on small files, from 1 (fast) to 9: for WebP, AVIF, HEIF, JPEG XL and PNG.",
        ),
        click.option(
            "--only-if-smaller",
            is_flag=True,
            help="Write no file that is not smaller than its input. If the output has the same format and the "
            "same pixels, a copy of the input is written instead (not with --metadata strip).",
        ),
        click.option(
            "--widths",
            type=Items(Whole(1, 65_535)),
            metavar="W,W,...",
            help="Make an output of each width, by default named {stem}-{width}w. An image is never enlarged: it "
            "is made in its own width once, instead of in all larger ones.",
        ),
        click.option(
            "--formats",
            type=Items(click.STRING),
            metavar="F,F,...",
            help="Make an output in each of these formats, such as avif,webp,jpeg, instead of --format.",
        ),
        click.option(
            "--decode",
            type=click.Choice(["safe", "fast", "exact"]),
            default="safe",
            show_default=True,
            help="How far the decoder may shrink a JPEG before a resize: to twice the target size (safe), to "
            "the target size (fast), or not at all (exact).",
        ),
        click.option(
            "--damage",
            type=click.Choice(["refuse", "warn", "salvage"]),
            default="warn",
            show_default=True,
            help="Which damaged files to accept: none (refuse), those whose pixels are all there (warn), or "
            "all that can be decoded in part (salvage).",
        ),
        click.option(
            "--colors",
            type=click.Choice(["keep", "srgb"]),
            default="keep",
            show_default=True,
            help="Keep the colours as the input states them, by a profile for example, or convert them to "
            "sRGB. Colours that an output cannot state are always converted.",
        ),
        click.option(
            "--gainmap",
            "gain_map",
            type=click.Choice(["keep", "drop"]),
            default="keep",
            show_default=True,
            help="Process the gain map of an Ultra HDR photo along with the photo, or drop it.",
        ),
        click.option(
            "--metadata",
            type=click.Choice(["keep", "strict", "strip"]),
            default="keep",
            show_default=True,
            callback=_metadata,
            help="Keep or remove EXIF, XMP, IPTC, the colour profile and the like. What an output cannot hold "
            "is dropped and reported (keep), or fails the item (strict).",
        ),
        click.option(
            "--strict-metadata",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_strict_metadata,
            help="The same as --metadata strict.",
        ),
    )


def document_options(command: C) -> C:
    """Add the options for files with pages, and for documents that are drawn."""
    return together(
        command,
        click.option(
            "--pages",
            type=PageChoice(),
            show_default="first",
            metavar="all|first|N",
            help="Pages of TIFF, PDF and HEIF files to process: each one as an item of its own (all; needs {page} "
            "in --name if a file has several), only the first one (first), or only the page with this number (N).",
        ),
        click.option(
            "--density",
            type=Whole(1, 4800),
            show_default="pdf 150, svg 96",
            help="Pixels per inch at which PDF and SVG files are drawn.",
        ),
    )
