"""Wrong values of the Python interface: a UsageError that names the argument."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imageloom import Recipe, process
from imageloom.errors import UsageError
from imageloom.model import Output, Step
from program import contents, draw

WRONG: list[tuple[str, Any, str]] = [
    ("pipeline", 5, "pipeline = 5: it must be a text"),
    ("pipeline", ["flip"], "pipeline = \\['flip'\\]"),
    ("source", None, "source = None: it must be a path"),
    ("source", b"photos", "source = b'photos'"),
    ("sink", 3.5, "sink = 3.5"),
    ("sink", "", "the sink is empty"),
    ("engine", "steam", "there is no engine 'steam'"),
    ("jobs", -1, "jobs = -1: it must be a whole number from 0"),
    ("jobs", "2", "jobs = '2': it must be a whole number"),
    ("threads", 0, "threads = 0: it must be a whole number from 1"),
    ("timeout", "5", "timeout = '5': it must be a number above 0"),
    ("timeout", 0, "timeout = 0: it must be a number above 0"),
    ("format", "gifff", "there is no format 'gifff'"),
    ("format", 3, "format = 3: it must be the name of a format"),
    ("quality", 0, "quality = 0: it must be a whole number from 1 to 100"),
    ("quality", "high", "quality = 'high'"),
    ("quality", True, "quality = True"),
    ("decode", "quick", "decode = 'quick': it must be safe, fast or exact"),
    ("damage", None, "damage = None: it must be refuse, warn or salvage"),
    ("metadata", True, "metadata = True: it must be keep, strict or strip"),
    ("colors", "P3", "colors = 'P3': it must be keep or srgb"),
    ("include", 5, "include = 5: it must be a pattern"),
    ("include", [5], "include"),
    ("exclude", None, "exclude = None: it must be a pattern"),
    ("if_exists", "replace", "if_exists = 'replace': it must be error, skip or overwrite"),
    ("retry_failed", "yes", "retry_failed = 'yes': it must be true or false"),
    ("memory", "2G", "memory = '2G': it must be a whole number from 0"),
    ("memory", -1, "memory = -1"),
    ("name", 1, "name = 1: it must be a text"),
    ("in_place", 1, "in_place = 1: it must be true or false"),
    ("tile", "sometimes", "tile = 'sometimes': it must be auto, always or never"),
    ("items_at_once", 1.5, "items_at_once = 1.5"),
    ("in_flight", 5000, "in_flight = 5000: it must be a whole number from 0 to 1024"),
    ("scratch", 7, "scratch = 7: it must be a path"),
    ("links", "none", "links = 'none': it must be follow, inside or refuse"),
    ("connect", 5, "connect = 5: it must be a text"),
]


@pytest.mark.parametrize(("argument", "value", "said"), WRONG, ids=[f"{a}={v!r}" for a, v, _ in WRONG])
def test_a_wrong_value_is_named(tmp_path: Path, argument: str, value: Any, said: str) -> None:
    draw(tmp_path / "photos" / "a.jpg")
    given: dict[str, Any] = {
        "pipeline": "flip",
        "source": tmp_path / "photos",
        "sink": tmp_path / "out",
        "ledger": tmp_path / "ledger.db",
    }
    with pytest.raises(UsageError, match=said):
        process(**given | {argument: value})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "given",
    [{"format": "png"}, {"quality": 90}, {"decode": "exact"}, {"metadata": "strip"}, {"damage": "refuse"}],
)
def test_a_recipe_takes_no_arguments_of_its_own(tmp_path: Path, given: dict[str, Any]) -> None:
    recipe = Recipe((Output((Step("flip"),)),))
    with pytest.raises(UsageError, match=f"a Recipe has its own {next(iter(given))}"):
        process(recipe, tmp_path, tmp_path / "out", **given)


def test_one_pattern_is_no_list_of_letters(tmp_path: Path) -> None:
    for name in ("0a1.jpg", "b.jpg"):
        draw(tmp_path / "photos" / name)
    done = process("flip", tmp_path / "photos", tmp_path / "out", include="0a*.jpg", ledger=tmp_path / "l.db")
    assert (done.done, list(contents(tmp_path / "out"))) == (1, ["0a1.jpg"])
