"""The signature and the help of an operator as a function, or as a method of a pipeline."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from functools import reduce
from operator import or_
from types import FunctionType
from typing import Any, Literal

from imageloom import operators
from imageloom.operators import Operator


def signature_of(operator: Operator, first: str, returns: Any) -> inspect.Signature:
    """The signature of a method or function that takes the operator's parameters, also by position.

    Args:
        first: name of the first parameter.
        returns: the annotation of the result.
    """
    parameters = [inspect.Parameter(first, inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    for name, parameter in operator.parameters.items():
        hint = plain_hint(operator.hints[name])
        parameters.append(parameter.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=hint))
    return inspect.Signature(parameters, return_annotation=returns)


def plain_hint(hint: Any) -> Any:
    """An annotation without the ranges of values."""
    if typing.get_origin(hint) is typing.Annotated:
        return plain_hint(typing.get_args(hint)[0])
    if typing.get_origin(hint) is Literal or not typing.get_args(hint):
        return hint
    return reduce(or_, [plain_hint(one) for one in typing.get_args(hint)])


def help_of(operator: Operator) -> str:
    """The docstring of a method or function: the operator's, with the ranges of its parameters and an
    example."""
    lines = [inspect.getdoc(operator.function) or operator.name]
    if operator.parameters:
        described = [operators.describe_parameter(operator, name) for name in operator.parameters]
        lines += ["", "Args:", *(f"    {line}" for line in described)]
    if operator.examples:
        lines += ["", f"In a text: {', '.join(repr(example) for example in operator.examples)}."]
    return "\n".join(lines)


def dressed(function: Callable[..., Any], operator: Operator, first: str, returns: Any, place: str) -> Any:
    """A function that looks like one that was written for the operator: name, signature, annotations, help.

    Args:
        place: the module, with the class.
    """
    assert isinstance(function, FunctionType)
    module, _, owner = place.partition(":")
    signature = signature_of(operator, first, returns)
    function.__name__ = operator.name
    function.__qualname__ = f"{owner}.{operator.name}" if owner else operator.name
    function.__module__ = module
    function.__doc__ = help_of(operator)
    function.__signature__ = signature  # type: ignore[attr-defined]  # what inspect.signature reads
    function.__annotations__ = {
        **{name: p.annotation for name, p in signature.parameters.items() if p.annotation is not p.empty},
        "return": returns,
    }
    return function
