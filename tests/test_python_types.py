"""The Python interface as editors, type checkers and users see it: names, signatures, help, types, start-up."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path

import imageloom
from imageloom import Options, Pipeline, operators, ops, process, start, stream
from imageloom.bench.samples import draw_photos
from imageloom.interface.options import DEFAULTS
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
    found = [getattr(imageloom, name) for name in imageloom.__all__]
    assert [one.__name__ for one in found if inspect.isroutine(one) and not one.__doc__] == []
    assert [one.__name__ for one in found if inspect.isclass(one) and not one.__doc__] == []
    public = (imageloom.Image, imageloom.Job, imageloom.Stream, Pipeline)
    members = [m for one in public for m in inspect.getmembers(one) if not m[0].startswith("_")]
    assert [name for name, member in members if not inspect.getdoc(member)] == []


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
