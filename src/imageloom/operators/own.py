"""Checks of operators that are not imageloom's own: at their registration, and of what they return."""

from __future__ import annotations

import inspect
import os
import traceback
import typing
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from imageloom.errors import OperatorFailed, PipelineError
from imageloom.model import Pixels


def is_own(function: Callable[..., Any]) -> bool:
    """Whether a function is a user's operator."""
    return not function.__module__.startswith("imageloom.")


def place_of(function: Callable[..., Any]) -> str:
    """Where a function is defined: "my_ops.py, line 7"."""
    code = function.__code__
    return f"{os.path.basename(code.co_filename)}, line {code.co_firstlineno}"


def check_kind(kind: object, kinds: Collection[str]) -> None:
    """Check the kind that `@operator` got.

    Raises:
        PipelineError: the message says what to write.
    """
    if kind not in kinds:
        given = "nothing" if callable(kind) else repr(kind)
        raise PipelineError(
            f"@operator got {given}: the first argument is the kind, one of {', '.join(sorted(kinds))}; for "
            'example: @operator("point")'
        )


def check_declaration(function: Any) -> None:
    """Check a function that is to be a user's operator.

    Raises:
        PipelineError: the message names the function, its file and its line.
    """
    if not is_own(function):
        return
    where = f"the operator {function.__name__!r} ({place_of(function)})"
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters:
        raise PipelineError(f"{where} takes no image: its first parameter must be the pixels")
    hints = typing.get_type_hints(function, include_extras=True)
    for parameter in parameters[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise PipelineError(f"{where} has *{parameter.name}: give each parameter a name and a type")
        if parameter.name not in hints:
            raise PipelineError(
                f"the parameter {parameter.name!r} of {where} has no type; for example: {parameter.name}: int = 3"
            )


def checked(
    function: Callable[..., Any], run: Callable[[Pixels], Pixels], keeps_shape: bool
) -> Callable[[Pixels], Pixels]:
    """`run`, which calls a user's function with its parameters, with a check of what it returns."""

    def run_and_check(image: Pixels) -> Pixels:
        result = run(image)
        check_result(function, image, result, keeps_shape)
        return result

    return run_and_check


def check_result(function: Callable[..., Any], image: Pixels, result: object, keeps_shape: bool) -> None:
    """Check what an operator returned for an image.

    Args:
        keeps_shape: the result must have the shape of the image.

    Raises:
        OperatorFailed: the message names the function, its file and its line.
    """
    wanted = f"pixels of {image.dtype} like those it gets"
    if not isinstance(result, np.ndarray):
        given = "nothing (is `return` missing?)" if result is None else f"a {type(result).__name__}"
        wrong = f"returned {given}"
    elif result.dtype != image.dtype and keeps_shape:
        wrong = f"returned {result.dtype} pixels: end with .astype(image.dtype), after a clip to the range"
    elif keeps_shape and result.shape != image.shape:
        wrong = f"returned an array of {_shape(result)} for an image of {_shape(image)}"
        wanted = (
            "an array of the same shape; an operator that changes it is of the kind geometric, with frame="
        )
    elif result.ndim not in (2, 3) or (result.ndim == 3 and result.shape[2] not in (1, 2, 3, 4)):
        wrong, wanted = f"returned an array of {_shape(result)}", "(height, width) or (height, width, 1 to 4)"
    else:
        return
    raise OperatorFailed(f"{function.__name__} ({place_of(function)}) {wrong}; it must return {wanted}")


def _shape(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape))


def raised_at(function: Callable[..., Any], error: BaseException) -> str:
    """Where an operator's own file raised an error, as " (my_ops.py, line 9)"; empty for imageloom's operators."""
    if not is_own(function):
        return ""
    file = function.__code__.co_filename
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({os.path.basename(file)}, line {lines[-1]})" if lines else ""
