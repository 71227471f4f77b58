"""Each kind of failure is the name of a class, which says whether another attempt may help."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

import pytest

import imageloom
from imageloom import errors
from imageloom.driver.suspects import CRASHES
from imageloom.model import Failure

SOURCES = Path(imageloom.__file__).parent
FINAL = {
    ("WorkerLost", "engines/pipeline/engine.py"),
    ("WorkerLost", "engines/nodes/engine.py"),
}
"""Where no worker can be had at all, so that another attempt does not help."""


def class_of(kind: str) -> type[BaseException]:
    found = getattr(errors, kind, None) or getattr(builtins, kind, None)
    assert isinstance(found, type), f"{kind} is no class of errors.py, and not built in"
    assert issubclass(found, BaseException), kind
    return found


def written_by_hand(source: str) -> Iterator[tuple[str, bool]]:
    """Kind and `transient` of each `Failure("Kind", ...)`."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        kind = node.args[0]
        if name == "Failure" and isinstance(kind, ast.Constant):
            given = [*node.args[2:3], *(word.value for word in node.keywords if word.arg == "transient")]
            assert isinstance(kind.value, str)
            yield kind.value, any(ast.literal_eval(value) for value in given)


def test_each_kind_that_is_written_by_hand_is_a_class() -> None:
    wrong = []
    for path in SOURCES.rglob("*.py"):
        place = str(path.relative_to(SOURCES))
        for kind, transient in written_by_hand(path.read_text()):
            expected = getattr(class_of(kind), "transient", False)
            if transient != expected and (transient or (kind, place) not in FINAL):
                wrong.append((place, kind, transient))
    assert wrong == []


def test_the_search_finds_them() -> None:
    source = (
        'm.Failure("A", reason, True), Failure("B", ""), Failure("C", "", transient=True), Failure(kind, "")'
    )
    assert list(written_by_hand(source)) == [("A", True), ("B", False), ("C", True)]


@pytest.mark.parametrize("kind", CRASHES)
def test_the_kinds_of_crashes_are_classes(kind: str) -> None:
    class_of(kind)


@pytest.mark.parametrize("name", [name for name, found in vars(errors).items() if isinstance(found, type)])
def test_an_error_of_ours_becomes_a_failure_of_its_kind(name: str) -> None:
    kind = class_of(name)
    if not issubclass(kind, errors.ImageloomError) or kind is errors.MissingExtra:
        return
    failure = Failure.of(kind("why"))
    assert (failure.kind, failure.transient, failure.trace) == (name, kind.transient, "")
    assert failure.message in ("why", f"{name}: why")
    assert failure.message == "why" or not issubclass(kind, errors.ItemError)
