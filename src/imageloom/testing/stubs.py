"""Makes the stub files of the functions and methods that follow from the operators.

    python -m imageloom.testing.stubs

writes `ops.pyi` and `recipes/chained.pyi`. A test checks that they are what this makes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from imageloom import operators
from imageloom.operators import Operator
from imageloom.recipes.signatures import help_of, signature_of

_ROOT = Path(operators.__file__).parent.parent
_HEAD = """# Made by `python -m imageloom.testing.stubs`. Do not edit.
from typing import {names}

"""
_FUNCTIONS = """import numpy
from numpy.typing import NDArray
from PIL.Image import Image as PillowImage

from imageloom.interface.image import Image

_Scalar = TypeVar("_Scalar", bound=numpy.generic)
_Image = TypeVar("_Image", Image, PillowImage)

"""
_METHODS = """class Chained:
    __slots__ = ()
"""
_WIDTH = 110


def stubs() -> dict[Path, str]:
    """The contents of the stub files, by their paths in the package."""
    own = [one for one in operators.operators() if one.function.__module__.startswith("imageloom.operators.")]
    functions = "".join(line for one in own for line in _function(one))
    methods = "".join(line for one in own for line in _method(one))
    return {
        Path("ops.pyi"): _HEAD.format(names="Literal, TypeVar, overload") + _FUNCTIONS + functions,
        Path("recipes/chained.pyi"): _HEAD.format(names="Literal, Self") + _METHODS + methods,
    }


def _function(operator: Operator) -> Iterator[str]:
    for image in ("NDArray[_Scalar]", "_Image"):
        yield "@overload\n"
        yield _signature(operator, f"image: {image}", image, "")
        yield _docstring(operator, "    ") if image != "_Image" else " ...\n"


def _method(operator: Operator) -> Iterator[str]:
    yield _signature(operator, "self", "Self", "    ")
    yield _docstring(operator, "        ")


def _signature(operator: Operator, first: str, returns: str, indent: str) -> str:
    found = list(signature_of(operator, "first", inspect.Signature.empty).parameters.values())[1:]
    parameters = [first, *(_text(parameter) for parameter in found)]
    line = f"{indent}def {operator.name}({', '.join(parameters)}) -> {returns}:"
    if len(line) <= _WIDTH:
        return line
    inner = f",\n{indent}    ".join(parameters)
    return f"{indent}def {operator.name}(\n{indent}    {inner},\n{indent}) -> {returns}:"


def _text(parameter: inspect.Parameter) -> str:
    """A parameter with its annotation, which needs no import but that of Literal."""
    found = re.sub(r"typing\.(?=Literal|Union)", "", str(parameter))
    return re.sub(r"Union\[(\w+), (Literal\[.*?\])\]", r"\1 | \2", found)


def _docstring(operator: Operator, indent: str) -> str:
    text = "\n".join(f"{indent}{line}".rstrip() for line in help_of(operator).splitlines())
    return f'\n{indent}"""{text.strip()}\n{indent}"""\n'


if __name__ == "__main__":
    for path, text in stubs().items():
        (_ROOT / path).write_text(text)
