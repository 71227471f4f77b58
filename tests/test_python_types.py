"""The Python interface as editors, type checkers and users see it: names, signatures, help, types, start-up."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import subprocess
import sys
import typing
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import imageloom
from imageloom import Options, Pipeline, operators, ops, process, start, stream
from imageloom.bench.samples import draw_photos
from imageloom.interface.options import DEFAULTS
from imageloom.recipes.chained import Chained
from imageloom.testing.stubs import stubs

ROOT = Path(imageloom.__file__).parent
OWN = [one for one in operators.operators() if one.function.__module__.startswith("imageloom.operators")]


def test_a_script_with_all_of_the_interface_works(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    draw_photos(tmp_path / "photos", 3)
    import user_script  # it registers an operator, which other tests must not see

    try:
        user_script.main(tmp_path / "photos", tmp_path / "out")
    finally:
        for forget in operators.reloaded:
            forget("user_script")


def test_the_script_uses_every_public_name() -> None:
    text = Path(__file__).with_name("user_script.py").read_text()
    assert [name for name in imageloom.__all__ if not re.search(rf"\b{name}\b", text)] == []


def test_what_dir_shows_is_what_is_public() -> None:
    assert dir(imageloom) == sorted(imageloom.__all__)
    for name in imageloom.__all__:
        assert getattr(imageloom, name) is not None
    code = "from imageloom import *; print(sorted(n for n in dir() if not n.startswith('__')))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(sorted(set(imageloom.__all__) - {"__version__"}))


def test_every_public_name_is_documented() -> None:
    """So are the fields and methods of public classes. mypy checks that all have types."""
    found = [name for name in imageloom.__all__ if name not in ("Meta", "__version__")]
    assert sorted({lacking for name in found for lacking in _undocumented(name)}) == []


def _undocumented(name: str) -> Iterator[str]:
    one = getattr(imageloom, name)
    if inspect.isroutine(one) or inspect.ismodule(one):
        if not one.__doc__:
            yield name
    elif not inspect.isclass(one) or not one.__module__.startswith("imageloom."):  # an alias of a type
        module = next(module for module, names in imageloom._WHERE.items() if name in names)
        homes = [ROOT / f"{module.replace('.', '/')}.py", *(ROOT / module).glob("*.py")]
        described = {name for home in homes if home.exists() for name in _described(_tree(home).body)}
        if name not in described:
            yield name
    else:
        for base in one.__mro__:
            if base.__module__.startswith("imageloom.") and base is not Chained:  # made from the operators
                path = sys.modules[base.__module__].__file__ or ""
                (node,) = [
                    node
                    for node in _tree(Path(path)).body
                    if isinstance(node, ast.ClassDef) and node.name == base.__name__
                ]
                yield from (f"{base.__name__}.{lacking}" for lacking in _lacking(node))


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _described(body: Sequence[ast.stmt]) -> set[str]:
    """The names of variables and fields that a text follows."""
    found = set()
    for one, text in pairwise(body):
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            parts = one.orelse if isinstance(one, ast.If) else [one]
            found |= {node.id for part in parts for node in ast.walk(part) if isinstance(node, ast.Name)}
    return found


def _lacking(node: ast.ClassDef) -> Iterator[str]:
    """What of a class is not documented."""
    if not ast.get_docstring(node):
        yield "__doc__"
    described = _described(node.body)
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            name, is_described = one.target.id, one.target.id in described
        elif isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
            name, is_described = one.name, ast.get_docstring(one) is not None
        else:
            continue
        if not name.startswith("_") and not is_described:
            yield name


def test_the_stubs_are_what_the_generator_makes() -> None:
    for path, text in stubs().items():
        assert (ROOT / path).read_text() == text, "run: python -m imageloom.testing.stubs"


def test_signatures_and_help_are_those_of_the_operators() -> None:
    for one in OWN:
        function, method = getattr(ops, one.name), getattr(Pipeline, one.name)
        for made, first in ((function, "image"), (method, "self")):
            parameters = inspect.signature(made).parameters
            assert list(parameters) == [first, *one.parameters]
            assert [p.default for p in list(parameters.values())[1:]] == [
                p.default for p in one.parameters.values()
            ]
            assert inspect.getdoc(made).startswith(one.summary)  # type: ignore[union-attr]
            assert set(typing.get_type_hints(made)) == {*one.parameters, "return"}
        assert list(inspect.signature(getattr(Pipeline(), one.name)).parameters) == list(one.parameters)
    assert str(inspect.signature(ops.gaussian_blur)).startswith("(image, sigma: float | None = None")
    assert set(dir(ops)) >= {one.name for one in OWN} <= set(dir(Pipeline()))


def test_the_signature_of_a_job_has_all_options() -> None:
    for function in (process, start, stream):
        parameters = inspect.signature(function).parameters
        assert list(parameters) == ["pipeline", "source", "sink", *DEFAULTS]
        assert {name: parameters[name].default for name in DEFAULTS} == DEFAULTS
        assert parameters["quality"].kind is inspect.Parameter.KEYWORD_ONLY
    assert list(Options.__annotations__) == list(DEFAULTS)
    lines = (inspect.getdoc(process) or "").splitlines()
    assert [name for name in DEFAULTS if not any(line.startswith(f"    {name}: ") for line in lines)] == []


def test_importing_loads_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import imageloom; new = set(sys.modules) - before; "
        "print(sorted(n for n in new if n not in ('__future__', 'typing', 'imageloom')))"
    )
    known = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT.parent)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [name for name in eval(known) if name.startswith(("imageloom", "numpy", "msgspec", "cv2"))] == []
