"""The files that a recipe names in its steps, see `operators.named`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from imageloom import operators
from imageloom.errors import OperatorRefused, PipelineError, UsageError
from imageloom.model import Output, Recipe, Step, Value
from imageloom.operators import named


def files_of(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The path and the digest of each file that a step names."""
    for output in recipe.outputs:
        for step in output.steps:
            if path := _path(step):
                yield path, str(step.params.get("digest", ""))


def readable(recipe: Recipe) -> tuple[str, ...]:
    """The files that a worker reads: those of operators, and those that steps name."""
    return (*recipe.operators, *(path for path, _ in files_of(recipe)))


def placed(recipe: Recipe, folder: str) -> Recipe:
    """The recipe with absolute paths; relative ones begin at the folder. No file is read."""

    def absolute(step: Step) -> dict[str, Value]:
        return {operators.get(step.name).file: os.path.abspath(os.path.join(folder, _path(step)))}

    if not any(files_of(recipe)):
        return recipe
    return replace(recipe, outputs=tuple(_changed(output, absolute) for output in recipe.outputs))


def resolved(recipe: Recipe) -> Recipe:
    """The recipe with the absolute path and the digest of each file.

    Raises:
        UsageError: a file cannot be read, or differs from the digest that a step has; the message names the step.
    """
    if not any(files_of(recipe)):
        return recipe
    return replace(recipe, outputs=tuple(_changed(output, _resolved) for output in recipe.outputs))


def without_paths(output: Output) -> Output:
    """The output, with files that are named by their digests only."""
    return _changed(output, _without_path) if any(map(_path, output.steps)) else output


def _path(step: Step) -> str:
    """The path that a step names; empty if it names none, or if its operator is not loaded here."""
    try:
        name = operators.get(step.name).file
    except PipelineError:
        return ""
    return str(step.params.get(name) or "") if name else ""


def _changed(output: Output, change: Callable[[Step], dict[str, Value]]) -> Output:
    steps = (
        replace(one, params={**one.params, **change(one)}) if _path(one) else one for one in output.steps
    )
    return replace(output, steps=tuple(steps))


def _resolved(step: Step) -> dict[str, Value]:
    path = os.path.abspath(_path(step))
    try:
        digest = named.digest_of(named.read(path))
    except OperatorRefused as error:
        raise UsageError(f"{step.name}: {error}") from None
    if step.params.get("digest", digest) != digest:
        raise UsageError(f"{step.name}: {path} has not the digest that the step names, but {digest}")
    return {operators.get(step.name).file: path, "digest": digest}


def _without_path(step: Step) -> dict[str, Value]:
    return {operators.get(step.name).file: ""} if step.params.get("digest") else {}
