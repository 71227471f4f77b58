"""Outputs with conditions, widths and fields, resolved for one item: what is left is plain steps.

A plan is a pure function of header and recipe. So the header of an item has the values of the fields that the
steps of its recipe need (`Header.facts`).
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from imageloom import operators
from imageloom.model import Frame, Header, Output, Recipe, Step
from imageloom.recipes.fields import filled_step, step_fields
from imageloom.recipes.when import holds, upright_size


def is_plain(output: Output) -> bool:
    """Whether an output is made of all items, by the same steps."""
    return not (output.when or output.width or output.above or any(map(step_fields, output.steps)))


def has_conditions(recipe: Recipe) -> bool:
    """Whether the number of outputs depends on the item."""
    return any(output.when or output.above for output in recipe.outputs)


def resolved(header: Header, recipe: Recipe) -> Iterator[tuple[int, Output]]:
    """The outputs to make of an item, with plain steps, and the place of each one in the recipe.

    Raises:
        MissingField: a step needs a field that the item does not have.
        OperatorRefused: a step does not accept its input.
    """
    for place, output in enumerate(recipe.outputs):
        if is_plain(output):
            yield place, output
        elif holds(output.when, header):
            values = field_values(header)
            filled = replace(output, steps=tuple(filled_step(step, values) for step in output.steps))
            if sized := _sized(header, filled):
                yield place, sized


def field_values(header: Header) -> dict[str, str]:
    """The values of an item's fields that its header has."""
    width, height = upright_size(header)
    return {"width": str(width), "height": str(height), "format": header.format, **dict(header.facts)}


def _sized(header: Header, output: Output) -> Output | None:
    """The output with the step that gives it its width; None if it is not to be made."""
    if not (output.width or output.above):
        return output
    width = operators.frames(output.steps, _upright(header))[-1].width
    if width <= output.above:
        return None
    if not output.width or width <= output.width:
        return output
    return replace(output, steps=(*output.steps, Step("resize", {"size": f"{output.width}x"})))


def _upright(header: Header) -> Frame:
    width, height = upright_size(header)
    return replace(header.frame, width=width, height=height)
