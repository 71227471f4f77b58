"""The recipe of a job, from a pipeline or a recipe and the options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from msgspec.structs import replace

from imageloom import operators
from imageloom.driver.validation import validated
from imageloom.errors import UsageError
from imageloom.interface.arguments import format_of, plain
from imageloom.model import Output, Recipe
from imageloom.recipes.checking import checked
from imageloom.recipes.pipeline import Pipeline
from imageloom.recipes.recipe import output_of
from imageloom.recipes.responsive import with_set

_T = TypeVar("_T")
_OF_AN_OUTPUT = (
    *("quality", "subsampling", "max_bytes", "lossless", "progressive", "effort", "only_if_smaller"),
)
_OF_A_SET = ("format", "widths", "formats")
_OF_RECIPES = (
    "decode",
    "metadata",
    "damage",
    "colors",
    "gain_map",
    "pages",
    "density",
)
_OF_A_RECIPE = (*_OF_AN_OUTPUT, *_OF_A_SET, *_OF_RECIPES)
"""The options that a Recipe has itself."""


def recipe_of(pipeline: object, o: Mapping[str, Any], usual: Mapping[str, Any]) -> Recipe:
    """The recipe for a pipeline and the options.

    Args:
        o: all options by name.
        usual: their defaults.

    Raises:
        UsageError: it is neither a pipeline nor a recipe, a Recipe is given together with options that it has
            itself, or one of these options is invalid.
    """
    if isinstance(pipeline, Recipe):
        for name in _OF_A_RECIPE:
            if type(o[name]) is not type(usual[name]) or o[name] != usual[name]:
                raise UsageError(f"a Recipe has its own {name}: set it there, not as an argument")
        return _checked_recipe(pipeline)
    if isinstance(pipeline, str):
        output = output_of(pipeline)
    elif isinstance(pipeline, Pipeline):
        output = Output(pipeline.steps)
    else:
        raise UsageError(
            f"pipeline = {pipeline!r}: it must be a text such as 'resize 50%', a Pipeline or a Recipe"
        )
    chosen = {name: o[name] for name in _OF_RECIPES}
    output = replace(output, format=format_of(o["format"]), **{name: o[name] for name in _OF_AN_OUTPUT})
    widths, formats = _several("widths", o["widths"], int), _several("formats", o["formats"], str)
    named = tuple(found for name in formats if (found := format_of(name, "formats")))
    outputs = with_set(validated(output), widths, named, o["name"])
    return checked(validated(Recipe(outputs, **chosen)))


def _several(what: str, given: object, kind: type[_T]) -> tuple[_T, ...]:
    """Several values of a kind."""
    if isinstance(given, Iterable) and not isinstance(given, (str, bytes, Mapping)):
        found = tuple(map(plain, given))
        if all(isinstance(one, kind) and not isinstance(one, bool) for one in found):
            return found
    raise UsageError(
        f"{what} = {given!r}: give several values, such as {'[320, 640]' if kind is int else ['avif', 'jpeg']}"
    )


def _checked_recipe(recipe: Recipe) -> Recipe:
    """The recipe, with the steps that `Pipeline` makes of its steps.

    Raises:
        UsageError: a field or a step is invalid, or a file of operators cannot be loaded.
    """
    validated(recipe)
    operators.load_files(recipe.operators)
    outputs = [
        replace(validated(one), steps=Pipeline(one.steps).steps, format=format_of(one.format))
        for one in recipe.outputs
    ]
    return checked(replace(recipe, outputs=tuple(outputs)))
