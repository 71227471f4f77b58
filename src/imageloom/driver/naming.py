"""The names of outputs: templates, and the checks of what users give for them."""

from __future__ import annotations

import re
from string import Formatter

from imageloom import codecs
from imageloom.driver.source import Source
from imageloom.errors import InvalidName, UsageError
from imageloom.model import Format, Job, Output, path_and_page
from imageloom.stores.names import check_output_name

FIELDS = ("dir", "stem", "page", "ext")
MOST_TEMPLATE = 1000
"""Maximum length of --name, in characters."""


def check_template(template: str, has_one_item: bool = False) -> None:
    """Check a template of output names.

    Args:
        has_one_item: the source is one file, so that the name need not contain {stem}.

    Raises:
        UsageError: the template is invalid; the message names the valid fields.
    """
    if len(template) > MOST_TEMPLATE:
        raise UsageError(f"--name has {len(template):,} characters, over the limit of {MOST_TEMPLATE:,}")
    try:
        parsed = [found[1:] for found in Formatter().parse(template) if found[1] is not None]
    except ValueError as error:
        raise UsageError(f"--name {template!r}: {error}") from None
    fields = [field for field, _, _ in parsed]
    if unknown := [field for field in fields if field not in FIELDS]:
        wrong = f"unknown field {{{unknown[0]}}}"
    elif "stem" not in fields and not has_one_item:
        wrong = "{stem} is missing, so all names would be equal"
    elif any(spec or conversion for _, spec, conversion in parsed):
        wrong = "a field must not contain ':' or '!'"
    else:
        check_below(_filled(template, "dir", "stem", "ext", 1), f"--name {template!r}")
        return
    raise UsageError(f"--name {template!r}: {wrong}; the fields are: {{dir}}, {{stem}}, {{page}}, {{ext}}")


def check_pages(job: Job, source: Source) -> None:
    """Check that a job can make items of pages, if it asks for that.

    Raises:
        UsageError: it replaces files, or watches them.
    """
    if job.recipe.pages != "first" and (job.in_place or source.is_endless):
        how = "--in-place" if job.in_place else "a watch"
        raise UsageError(
            f"--pages {job.recipe.pages} is not possible with {how}: a file has one output there"
        )


def check_below(name: str, given: str) -> None:
    """Check that a name is valid for an output.

    Args:
        given: the argument that the name comes from, for the message.

    Raises:
        UsageError: see `names.check_output_name`.
    """
    try:
        check_output_name(name)
    except InvalidName as error:
        raise UsageError(f"{given}: {error}") from None


def output_name(key: str, header_format: Format, output: Output, template: str = "{dir}/{stem}.{ext}") -> str:
    """The name of an output relative to the sink.

    Args:
        key: the item's key.
        template: may contain {dir}: the item's folder; {stem}: its name without suffix; {ext}: the suffix. The
            suffix is the item's own if it fits the output's format, otherwise the default suffix of that format;
            {page}: the number of the page in the file, from 1.

    Raises:
        InvalidName: see `names.check_output_name`.
    """
    path, page = path_and_page(key)
    folder, _, name = path.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    if not dot or not stem:
        stem, suffix = name, ""
    suffixes = codecs.suffixes(codecs.written_as(output.format, header_format))
    ext = suffix if suffix.lower() in suffixes else suffixes[0]
    made = _filled(template, folder, stem, ext, 1 if page is None else page + 1)
    return check_output_name(f"{output.folder}/{made}" if output.folder else made)


def _filled(template: str, folder: str, stem: str, ext: str, page: int) -> str:
    """Fill in a valid template. Without a folder, its slash is omitted."""
    made = template.format(dir=folder, stem=stem, ext=ext, page=page).lstrip("/")
    return re.sub("/{2,}", "/", made) if "//" in made else made
