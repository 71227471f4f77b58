"""Checks of the outputs of a recipe that need all their fields: what can be said before any item is read."""

from __future__ import annotations

from imageloom import codecs
from imageloom.errors import PipelineError, UsageError
from imageloom.model import Output, Recipe
from imageloom.recipes import fields, when

FLAGS = {
    "effort": "--effort",
    "lossless": "--lossless",
    "progressive": "--progressive",
    "subsampling": "--subsampling",
}


def checked(recipe: Recipe) -> Recipe:
    """The recipe, if its conditions, fields and options are valid.

    Raises:
        PipelineError: a condition, or a text with fields, is invalid.
        UsageError: an option does not exist in the format of an output, or excludes another one.
    """
    for output in recipe.outputs:
        where = f"output {output.folder}: " if output.folder else ""
        try:
            if output.when:
                when.parsed(output.when)
            for step in output.steps:
                fields.step_fields(step)
        except PipelineError as error:
            raise PipelineError(f"{where}{error}") from None
        _check_options(output, where)
    return recipe


def _check_options(output: Output, where: str) -> None:
    if output.lossless and output.max_bytes:
        raise UsageError(f"{where}--lossless excludes --max-bytes, which lowers the quality")
    if output.lossless and output.quality is not None:
        raise UsageError(f"{where}--lossless excludes --quality")
    if output.format is None:  # formats without an option ignore it
        return
    codec, known = codecs.get(output.format), codecs.settings(output.format)
    for name, flag in FLAGS.items():
        if not getattr(output, name) or name in known or (name == "lossless" and not codec.quality):
            continue
        having = [format for format in _written() if _has(format, name)]
        raise UsageError(
            f"{where}{flag}: {output.format} has no such option; these formats have it: {', '.join(having)}"
        )
    if output.max_bytes and not codec.quality:
        raise UsageError(
            f"{where}--max-bytes: {output.format} has no quality to lower; these formats have one: "
            f"{', '.join(format for format in _written() if codecs.get(format).quality)}"
        )


def _written() -> list[str]:
    """The formats of files that can be written."""
    formats = [format for format in codecs.formats() if codecs.get(format).written == format]
    return [format for format in formats if not hasattr(codecs.get(format), "files")]


def _has(format: str, name: str) -> bool:
    return name in codecs.settings(format) or (name == "lossless" and not codecs.get(format).quality)
