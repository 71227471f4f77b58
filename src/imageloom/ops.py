"""Operators as functions of one image: `imageloom.ops.gaussian_blur(pixels, sigma=2)`.

Each takes an array, an `imageloom.Image` or an image of Pillow first, then the operator's parameters by
position or by name, and returns an image of the same kind. The input does not change. Operators of yours and
of plug-ins are here too. `ops.pyi` has the types for editors and type checkers; `testing/stubs.py` makes it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from imageloom import operators
from imageloom.errors import PipelineError
from imageloom.operators import Operator
from imageloom.recipes.pipeline import Pipeline
from imageloom.recipes.signatures import dressed


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return _function(operators.get(name))
    except PipelineError as error:
        raise AttributeError(str(error)) from None


def __dir__() -> list[str]:
    operators.load_packages()
    return sorted(operator.name for operator in operators.operators())


@cache
def _function(operator: Operator) -> Any:
    def function(image: Any, *values: object, **named: object) -> Any:
        return Pipeline().then(operator.name, *values, **named)(image)

    return dressed(function, operator, "image", Any, __name__)
