"""Each operator as a method of a pipeline.

`chained.pyi` has the types of the methods for editors and type checkers; `testing/stubs.py` makes it.
"""

from __future__ import annotations

from functools import cache
from types import FunctionType
from typing import Any, Self

from imageloom import operators
from imageloom.errors import PipelineError
from imageloom.operators import Operator
from imageloom.recipes.signatures import dressed


class _Method:
    """The method of one operator. It is made when it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        function = _method(operators.get(self._name))
        return function if instance is None else function.__get__(instance, owner)


@cache
def _method(operator: Operator) -> FunctionType:
    def method(self: Any, *values: object, **named: object) -> Any:
        return self.then(operator.name, *values, **named)

    made: FunctionType = dressed(method, operator, "self", Self, "imageloom.recipes.pipeline:Pipeline")
    return made


class Chained:
    """Has a method for each operator, which returns the pipeline with one more step."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        """The method of an operator of the user or of a plug-in."""
        if not name.startswith("_"):
            try:
                return _method(operators.get(name)).__get__(self)
            except PipelineError as error:
                raise AttributeError(f"a pipeline has no method {name!r}: {error}") from None
        raise AttributeError(f"a pipeline has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(one.name for one in operators.operators())})


for one in operators.operators():
    setattr(Chained, one.name, _Method(one.name))
