"""Parameters that are texts with fields of an item, such as "{stem}". They are filled in while planning."""

from __future__ import annotations

import typing
from functools import lru_cache

import msgspec

from imageloom.operators import registry
from imageloom.operators.extern import reloaded

TEMPLATE = msgspec.Meta(extra={"template": True})
"""Marks such a parameter: `text: Annotated[str, TEMPLATE]`. See `recipes.fields` for the fields."""


@lru_cache(maxsize=256)
def templates(name: str) -> tuple[str, ...]:
    """The names of such parameters of an operator."""
    return tuple(name for name, hint in registry.get(name).hints.items() if _is_template(hint))


def _is_template(hint: object) -> bool:
    """Whether an annotation has the mark, also one in a union with None."""
    if typing.get_origin(hint) is typing.Annotated:
        marks = typing.get_args(hint)[1:]
        return any(isinstance(mark, msgspec.Meta) and mark.extra == TEMPLATE.extra for mark in marks)
    return (
        any(map(_is_template, typing.get_args(hint)))
        if typing.get_origin(hint) is not typing.Literal
        else False
    )


reloaded.append(lambda module: templates.cache_clear())
