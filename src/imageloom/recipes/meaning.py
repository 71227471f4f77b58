"""The meaning of a recipe for an item: a text that identifies the outputs, for the ledger.

An output counts as done if the ledger has it with the same meaning. A new release may give other bytes for some
formats or operators: their versions are part of the meaning, so only the items that they concern are processed
again. A version of 0 is not written, so the meanings in older ledgers stay valid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from imageloom import codecs, operators
from imageloom.errors import ImageloomError
from imageloom.model import Format, Output, Plain, Recipe, path_and_page
from imageloom.recipes.files import without_paths

MEANING = 2
"""Version of all results. Raise that of a codec or an operator instead, if a change concerns only these."""
MOST_SUFFIXES = 100
"""Maximum number of suffixes whose meanings are kept."""
_FIRST = {"outputs", "decode", "operators", "metadata"}
_FIRST_OF_OUTPUTS = {"steps", "folder", "format", "quality"}
"""The fields of a recipe, and of its outputs, that all ledgers have. A newer field is stated only if it is set."""


class Meanings:
    """The meanings of a recipe for items of different formats.

    Args:
        template: the template of the output names.
    """

    def __init__(self, recipe: Recipe, template: str) -> None:
        self._recipe, self._template = recipe, template
        self._texts: dict[str, str] = {}
        """By suffix, for speed: this is called several times for each item."""

    def of(self, key: str) -> str:
        """The meaning for an item: equal if bytes and names of the outputs are equal.

        The format is that of the key's suffix: it must be known before the file is read.
        """
        path, _ = path_and_page(key)
        suffix = path.rpartition(".")[2]
        if (text := self._texts.get(suffix)) is None:
            text = self._text(codecs.format_of(path))
            if len(self._texts) < MOST_SUFFIXES:
                self._texts[suffix] = text
        return text

    def _text(self, format: Format | None) -> str:
        recipe = self._recipe
        stated = _without_defaults(recipe, Recipe(()), _FIRST)
        stated["outputs"] = [
            _without_defaults(without_paths(output), Output(()), _FIRST_OF_OUTPUTS)
            for output in recipe.outputs
        ]
        if recipe.metadata == "strict":  # the same outputs, if they are made
            stated["metadata"] = "keep"
        parts: list[object] = [MEANING, stated, operators.contents(recipe.operators), self._template]
        if versions := dict(self._versions(format)):
            parts.append(versions)
        return msgspec.json.encode(parts, order="deterministic").decode()

    def _versions(self, format: Format | None) -> Iterator[tuple[str, int]]:
        """The versions other than 0 of all that takes part in making the outputs, by name."""
        steps = [step for output in self._recipe.outputs for step in output.steps]
        found = {f"operator {step.name}": operators.version(step.name) for step in steps}
        if format is not None:
            found[f"{format} decoder"] = codecs.versions(format).decoder
        for output in self._recipe.outputs:
            if (written := output.format or _written(format)) is not None:
                found[f"{written} encoder"] = codecs.versions(written).encoder
        yield from ((name, version) for name, version in found.items() if version)


def _without_defaults(data: Plain, usual: Plain, first: set[str]) -> dict[str, Any]:
    """The fields of data, without newer fields that have their default value."""
    stated = msgspec.to_builtins(data)
    return {
        name: value
        for name, value in stated.items()
        if name in first or getattr(data, name) != getattr(usual, name)
    }


def _written(format: Format | None) -> Format | None:
    """The format of outputs of an input in this format, if the recipe has none."""
    try:
        return codecs.written_as(None, format) if format else None
    except ImageloomError:  # its library is not installed: the item will fail
        return format
