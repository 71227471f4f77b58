"""The parameters of operators, and what is wrong with a value, in words for users."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from imageloom.model import Value


def explain(message: str, params: dict[str, Value]) -> str:
    """Rewrite msgspec's message about `$.name` for users."""
    text, _, path = message.partition(" - at `$.")
    name = path.rstrip("`")
    if not name:
        return text.replace("Object missing required field", "needs").replace("`", "")
    return f"{name} = {params[name]!r}: {text[0].lower()}{text[1:]}".replace("`", "")


def describe_parameter(function: Callable[..., Any], name: str) -> str:
    """One line about a parameter of an operator's function: its type, its range and its default."""
    hint = typing.get_type_hints(function, include_extras=True)[name]
    default = inspect.signature(function).parameters[name].default
    text = f"{name}: {_describe(hint)}"
    return text if default is inspect.Parameter.empty else f"{text}  [{default}]"


def _describe(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        meta = next((m for m in arguments[1:] if isinstance(m, msgspec.Meta)), msgspec.Meta())
        bounds = [
            f"{words} {value}"
            for words, value in (("above", meta.gt), ("from", meta.ge), ("below", meta.lt), ("to", meta.le))
            if value is not None
        ]
        return " ".join([_describe(arguments[0]), *bounds])
    if origin is Literal:
        return " or ".join(str(a) for a in arguments)
    if arguments:
        return " or ".join(_describe(a) for a in arguments if a is not type(None))
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}.get(
        hint, str(hint)
    )
