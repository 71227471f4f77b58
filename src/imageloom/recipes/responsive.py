"""Responsive sets: an output in several widths and formats, for the `srcset` of web pages."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from imageloom import codecs
from imageloom.errors import PipelineError
from imageloom.model import Format, Output
from imageloom.recipes import fields
from imageloom.recipes.checking import FLAGS

MOST_WIDTHS = 32
MOST_WIDTH = 65_535
NAME = "{dir}/{stem}-{width}w.{ext}"
"""The usual template of the names of a set with widths."""
NAMES = {"{dir}/{stem}.{ext}": NAME, "{stem}.{ext}": "{stem}-{width}w.{ext}", "": NAME}
"""What the usual templates of names become for a set with widths."""


def expanded(
    output: Output, widths: Sequence[int] = (), formats: Sequence[Format] = (), name: str = ""
) -> tuple[Output, ...]:
    """The outputs of a set: one for each width and format.

    An image is never enlarged: the first width that is not smaller than the image gives the image's own width, and
    larger ones are left out. Of the options, each output has those that its format has.

    Args:
        name: template of the names; empty: the output's own, or `NAME` if there are widths.

    Raises:
        PipelineError: widths or formats are invalid, or the names of a set would be equal.
    """
    if not (widths or formats):
        return (output,)
    ascending = sorted(set(widths))
    if (
        len(ascending) != len(widths)
        or len(widths) > MOST_WIDTHS
        or any(not 1 <= w <= MOST_WIDTH for w in widths)
    ):
        raise PipelineError(
            f"widths {', '.join(map(str, widths))}: give up to {MOST_WIDTHS} different numbers of pixels, from 1 "
            f"to {MOST_WIDTH:,}"
        )
    if len(set(formats)) != len(formats):
        raise PipelineError(f"formats {', '.join(formats)}: one is given twice")
    if formats and output.format:
        raise PipelineError(f"formats {', '.join(formats)}: the output has the format {output.format} too")
    template = name or output.name or (NAME if widths else "")
    if len(widths) > 1 and "width" not in fields.fields_of(template):
        raise PipelineError(f"the name {template!r} needs {{width}}, because there are several widths")
    if len(formats) > 1 and template and not fields.fields_of(template) & {"ext", "format"}:
        raise PipelineError(f"the name {template!r} needs {{ext}}, because there are several formats")
    if formats:
        _check_options(output, formats)
    sizes = list(zip(ascending, (0, *ascending), strict=False)) or [(0, 0)]
    return tuple(
        replace(_of_format(output, format), width=width, above=above, name=template)
        for format in (formats or (output.format,))
        for width, above in sizes
    )


def with_set(
    output: Output, widths: Sequence[int], formats: Sequence[Format], template: str
) -> tuple[Output, ...]:
    """The outputs of a set that is asked for by options: they add only what the output does not say itself.

    Args:
        template: of the job's names.

    Raises:
        PipelineError: see `expanded`.
    """
    if output.width or not (widths or formats):
        return (output,)
    name = output.name or NAMES.get(template, template) if widths else output.name
    return expanded(output, widths, () if output.format else formats, name)


def _of_format(output: Output, format: Format | None) -> Output:
    """The output in a format, with only those of its options that the format has."""
    if format is None or format == output.format:
        return output
    known, usual = codecs.settings(format), Output(())
    unknown = {name: getattr(usual, name) for name in FLAGS if name not in known and getattr(output, name)}
    return replace(output, format=format, **unknown)


def _check_options(output: Output, formats: Sequence[Format]) -> None:
    """Check that each option of an output exists in at least one of the formats.

    Raises:
        PipelineError: one does not.
    """
    known = {name for format in formats for name in codecs.settings(format)}
    for name, flag in FLAGS.items():
        if getattr(output, name) and name not in known:
            raise PipelineError(f"{flag}: none of the formats {', '.join(formats)} has such an option")
