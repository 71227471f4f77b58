"""The names of outputs: templates, and the checks of what users give for them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache

from imageloom import codecs
from imageloom.errors import DuplicateOutput, InvalidName, UsageError
from imageloom.model import Format, Header, Job, Output, Recipe, path_and_page
from imageloom.recipes import fields
from imageloom.recipes.plan import make_plan
from imageloom.stores.names import HASH, check_output_name

PLAIN = frozenset(("dir", "stem", "page", "ext"))
"""The fields that a key and a format give."""
UNIQUE = frozenset(("stem", "hash", *fields.EXIF))
"""A template needs one of these, for names of different items to differ."""
MOST_TEMPLATE = 1000
"""Maximum length of --name, in characters."""

_ANY = {name: "2000:01:01 00:00:00" if name in fields.OF_DATES else "a" for name in fields.OF_NAMES}
"""Values of all fields, for the check of a template."""


def check_template(template: str, has_one_item: bool = False, given: str = "--name") -> None:
    """Check a template of output names.

    Args:
        has_one_item: the source is one file, so that the name need not contain {stem}.
        given: the argument that the template comes from, for the message.

    Raises:
        UsageError: the template is invalid; the message names the valid fields.
    """
    if len(template) > MOST_TEMPLATE:
        raise UsageError(f"{given} has {len(template):,} characters, over the limit of {MOST_TEMPLATE:,}")
    try:
        found = fields.fields_of(template)
    except UsageError as error:
        raise UsageError(f"{given} {error}") from None
    if not (found & UNIQUE or has_one_item):
        raise UsageError(
            f"{given} {template!r}: {{stem}} is missing, so all names would be equal; the fields are: "
            f"{', '.join(f'{{{name}}}' for name in fields.OF_NAMES)}"
        )
    check_below(_named(template, _ANY), f"{given} {template!r}")


def check_pages(job: Job) -> None:
    """Check that a job can make items of pages, if it asks for that.

    Raises:
        UsageError: it replaces files, and asks for other pages than the first one.
    """
    if job.in_place and job.recipe.pages not in ("first", 1):
        raise UsageError(
            f"--pages {job.recipe.pages} is not possible with --in-place: a file has one output there"
        )


def check_digests(job: Job) -> None:
    """Check that names with {hash} are possible in a job.

    Raises:
        UsageError: its outputs keep the names of the inputs, or some may be left out.
    """
    if any("hash" in fields.fields_of(output.name or job.name) for output in job.recipe.outputs):
        if job.in_place:
            raise UsageError("--in-place excludes names with {hash}")
        if any(output.only_if_smaller for output in job.recipe.outputs):
            raise UsageError("--only-if-smaller excludes names with {hash}")


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
            {page}: the number of the page in the file, from 1. See `recipes.fields` for all fields.

    Raises:
        InvalidName: see `names.check_output_name`.
    """
    folder, stem, suffix, page = _parts(key)
    ext = _ext(suffix, codecs.written_as(output.format, header_format))
    if is_plain(template):
        made = _below(template.format(dir=folder, stem=stem, ext=ext, page=page))
    else:
        made = _named(template, {"dir": folder, "stem": stem, "ext": ext, "page": str(page)})
    return check_output_name(f"{output.folder}/{made}" if output.folder else made)


def output_names(
    key: str, header: Header, recipe: Recipe, template: str, facts: Mapping[str, str]
) -> list[str]:
    """The names of the outputs that are made of an item, whose names need its header or its plan.

    Args:
        facts: the fields of EXIF that the templates need, as far as the file has them.

    Raises:
        InvalidName: see `names.check_output_name`.
        DuplicateOutput: two outputs of the item have the same name.
        MissingField, ItemError: the item lacks a field, or cannot be planned.
    """
    folder, stem, suffix, page = _parts(key)
    values = {**facts, "dir": folder, "stem": stem, "page": str(page), "hash": HASH}
    names: list[str] = []
    for planned in make_plan(header, recipe).outputs:
        output, frame = recipe.outputs[planned.place], planned.frame
        values |= {"ext": _ext(suffix, planned.format), "format": planned.format}
        values |= {"width": str(frame.width), "height": str(frame.height)}
        made = _named(output.name or template, values)
        names.append(check_output_name(f"{output.folder}/{made}" if output.folder else made))
        if names[-1] in names[:-1]:
            raise DuplicateOutput(f"two of its outputs have the name {names[-1]} (see --name)")
    return names


def item_facts(key: str, exif: bytes, wanted: Collection[str]) -> dict[str, str]:
    """The wanted fields of an item that its key and its EXIF block say."""
    folder, stem, _, page = _parts(key)
    found = {"dir": folder, "stem": stem, "page": str(page)}
    if exif:
        from imageloom.codecs.exiftexts import texts  # few recipes need it

        found |= {f"exif.{name}": text for name, text in texts(exif).items()}
    return {name: text for name, text in found.items() if name in wanted}


@lru_cache(maxsize=64)
def is_plain(template: str) -> bool:
    """Whether a key and a format are enough to fill in a template."""
    parts = fields.parts(template, fields.OF_NAMES)
    return all(isinstance(part, str) or (part.name in PLAIN and part.default is None) for part in parts)


def _parts(key: str) -> tuple[str, str, str, int]:
    """The folder of a key, its stem, its suffix, and the number of its page from 1."""
    path, page = path_and_page(key)
    folder, _, name = path.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    if not dot or not stem:
        stem, suffix = name, ""
    return folder, stem, suffix, 1 if page is None else page + 1


def _ext(suffix: str, format: Format) -> str:
    suffixes = codecs.suffixes(format)
    return suffix if suffix.lower() in suffixes else suffixes[0]


def _named(template: str, values: Mapping[str, str]) -> str:
    return _below(fields.filled_name(template, values))


def _below(made: str) -> str:
    """Without a folder, its slash is omitted."""
    made = made.lstrip("/")
    return re.sub("/{2,}", "/", made) if "//" in made else made
