"""Any value of any argument of the Python interface: it is valid, or a UsageError names the argument."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import imageloom
from imageloom import Image, Limits, Pipeline, Recipe, UsageError, ops
from imageloom.bench.samples import draw_photo
from imageloom.codecs import CODECS
from imageloom.driver.source import Source
from imageloom.engines import ENGINES
from imageloom.errors import OperatorRefused
from imageloom.interface.options import DEFAULTS, prepare

PHOTO = draw_photo(1, 24, 18)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 130),
    st.integers(),
    st.sampled_from([2**31, 2**63, 2**64, -(2**70), 10**400]),
    st.floats(),
    st.text(max_size=6),
    st.text(st.characters(), max_size=4),
    st.binary(max_size=4),
    st.sampled_from(
        [
            "auto",
            "keep",
            "png",
            "jpg",
            "first",
            "all",
            "error",
            "*.jpg",
            "2026-11-01",
            "\0",
            "\ud800",
            "a/../b",
        ]
    ),
    st.sampled_from(
        [np.int64(3), np.float32(2.5), np.bool_(True), np.zeros(3), np.str_("png"), object(), int, len]
    ),
    st.sampled_from([Limits(), Limits(0), Limits("x"), Path("a"), datetime(2026, 1, 1), io.BytesIO(b"")]),  # type: ignore[arg-type]
)
JUNK = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=2),
    st.lists(SCALARS, max_size=2).map(tuple),
    st.dictionaries(st.text(max_size=2), SCALARS, max_size=2),
)


def some(examples: int) -> Callable[[Any], Any]:
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


def is_whole(low: int, high: float = math.inf) -> Callable[[Any], bool]:
    return lambda v: bool(isinstance(v, (int, np.integer)) and not isinstance(v, bool) and low <= v <= high)


def is_bool(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def is_one_of(*values: object) -> Callable[[Any], bool]:
    return lambda v: (v is None and None in values) or (isinstance(v, str) and v in values)


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_path(value: Any) -> bool:
    return isinstance(value, (str, Path))


def are_texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, Iterable) and all(isinstance(v, str) for v in value))


ACCEPTED: dict[str, Callable[[Any], bool]] = {
    "engine": lambda v: v == "auto" or v in ENGINES.names(),
    "connect": is_text,
    "jobs": is_whole(0, 100_000),
    "threads": is_whole(1, 100_000),
    "timeout": lambda v: bool(isinstance(v, (int, float, np.number)) and not is_bool(v) and 0 < v <= 1e9),
    "bind": is_text,
    "keys": is_text,
    "format": lambda v: v is None or (is_text(v) and bool(v)),
    "quality": lambda v: v is None or is_whole(1, 100)(v),
    "subsampling": is_one_of(None, "keep", "444", "422", "420"),
    "max_bytes": is_whole(0, 2**63 - 1),
    "lossless": is_bool,
    "progressive": is_bool,
    "effort": lambda v: v is None or is_whole(1, 9)(v),
    "only_if_smaller": is_bool,
    "widths": lambda v: isinstance(v, Iterable) and all(map(is_whole(1), v)),
    "formats": are_texts,
    "manifest": lambda v: is_path(v) or (isinstance(v, Iterable) and all(map(is_path, v))),
    "sizes": is_text,
    "decode": is_one_of("safe", "fast", "exact"),
    "damage": is_one_of("refuse", "warn", "salvage"),
    "metadata": is_one_of("keep", "strict", "strip"),
    "pages": lambda v: is_one_of("first", "all")(v) or is_whole(1, 99_999)(v),
    "density": is_whole(0, 4800),
    "colors": is_one_of("keep", "srgb"),
    "gain_map": is_one_of("keep", "drop"),
    "include": are_texts,
    "exclude": are_texts,
    "files": lambda v: v is None or are_texts(v),
    "newer_than": lambda v: isinstance(v, (int, float, str, datetime, np.number)),
    "adopt": is_bool,
    "shard": lambda v: v is None or (isinstance(v, str) and v in ("1/2", "3/16")),
    "prune": is_bool,
    "if_exists": is_one_of("error", "skip", "overwrite"),
    "retry_failed": is_bool,
    "memory": is_whole(0, 2**63 - 1),
    "name": is_text,
    "in_place": is_bool,
    "tile": is_one_of("auto", "always", "never"),
    "items_at_once": is_whole(0, 2**63 - 1),
    "scratch": is_path,
    "in_flight": is_whole(0, 1024),
    "links": is_one_of("follow", "inside", "refuse"),
    "durable": lambda v: v is None or is_bool(v),
    "sandbox": is_one_of("require", "auto", "off"),
    "untrusted": is_bool,
    "limits": lambda v: v is None or isinstance(v, Limits),
    "ledger": lambda v: v is None or is_path(v),
    "timeline": is_bool,
    "progress": is_bool,
    "listeners": lambda v: isinstance(v, Iterable) and all(map(callable, v)),
}
PLACES = ("source", "sink")


def test_every_option_is_tried() -> None:
    assert set(ACCEPTED) == set(DEFAULTS)


def problem(call: Callable[[], object]) -> str | None:
    """The message of the UsageError that a call raises; None if it raises none."""
    try:
        call()
    except UsageError as error:
        return str(error)
    return None


def check_option(name: str, value: Any) -> None:
    places: dict[str, Any] = {"pipeline": "flip", "source": "photos", "sink": "out"}
    options = {} if name in PLACES else {name: value}
    if name in PLACES:
        places[name] = value
    said = problem(lambda: prepare(places["pipeline"], places["source"], places["sink"], options))
    if said is not None:
        assert name in said
    else:
        assert ACCEPTED.get(name, is_path)(value)


@some(200)
@given(name=st.sampled_from([*PLACES, *ACCEPTED]), value=JUNK)
def test_an_option_is_valid_or_named(name: str, value: Any) -> None:
    check_option(name, value)


@pytest.mark.long
@pytest.mark.parametrize("name", [*PLACES, *ACCEPTED])
@some(250)
@given(value=JUNK)
def test_each_option_is_valid_or_named(name: str, value: Any) -> None:
    check_option(name, value)


@some(12)
@given(name=st.text(max_size=5), value=JUNK)
@example("qualty", 90)
def test_an_option_that_does_not_exist_is_named(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match="there is no option"):
        imageloom.process("flip", "photos", "out", **{f"x{name}": value})


@pytest.mark.parametrize(
    "name",
    [
        "format",
        "quality",
        "subsampling",
        "decode",
        "metadata",
        "damage",
        "colors",
        "gain_map",
        "pages",
        "density",
    ],
)
def test_a_recipe_has_these_options_itself(name: str) -> None:
    recipe = Recipe((imageloom.Output(()),))
    with pytest.raises(UsageError, match=f"a Recipe has its own {name}"):
        prepare(recipe, "photos", "out", {name: "exact" if name == "decode" else 7})


@some(60)
@given(
    where=st.sampled_from(
        ["decode", "pages", "density", "operators", "steps", "folder", "format", "quality"]
    ),
    value=JUNK,
)
def test_a_field_of_a_recipe_is_valid_or_named(where: str, value: Any) -> None:
    output: dict[str, Any] = {"steps": ()}
    fields: dict[str, Any] = {}
    (output if where in ("steps", "folder", "format", "quality") else fields)[where] = value
    with suppress(UsageError):
        prepare(Recipe((imageloom.Output(**output),), **fields), "photos", "out", {})


@some(60)
@given(patterns=st.lists(st.text("ab*?[]{},.!/\\-^\0é", max_size=8), max_size=2))
def test_any_pattern_is_valid_or_a_usage_error(
    patterns: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with suppress(UsageError):
        list(Source(str(tmp_path_factory.getbasetemp()), tuple(patterns), tuple(patterns)))


SAVING: dict[str, Callable[[Any], bool]] = {
    "format": lambda v: is_text(v) and v.lower() in {*CODECS.names(), "jpg"},
    **{name: ACCEPTED[name] for name in ("quality", "subsampling", "metadata", "colors", "gain_map")},
}
OPENING: dict[str, Callable[[Any], bool]] = {
    "page": is_whole(1, 99_999),
    **{name: ACCEPTED[name] for name in ("density", "decode", "damage", "limits")},
}


@pytest.mark.parametrize("name", SAVING)
@some(12)
@given(value=JUNK)
def test_an_argument_of_save_is_valid_or_named(name: str, value: Any) -> None:
    image = Image.from_array(PHOTO)
    try:
        said = problem(lambda: image.save(io.BytesIO(), **{"format": "webp", name: value}))
    except imageloom.ImageloomError:
        assert name == "format"  # known, but it cannot be written
    else:
        assert SAVING[name](value) if said is None else name in said


@pytest.mark.parametrize("name", OPENING)
@some(12)
@given(value=JUNK)
def test_an_argument_of_open_is_valid_or_named(name: str, value: Any) -> None:
    data = Image.from_array(PHOTO).encode("png")
    try:
        said = problem(lambda: imageloom.open(data, **{name: value}))
    except imageloom.ImageloomError:
        assert OPENING[name](value)  # there is no such page, or the image is over the limit
    else:
        assert OPENING[name](value) if said is None else name in said


@some(80)
@given(value=JUNK)
def test_any_value_in_place_of_an_image_a_path_or_a_pipeline(value: Any) -> None:
    image = Image.from_array(PHOTO)
    calls: list[Callable[[Any], object]] = [
        Pipeline("flip"),
        ops.flip,
        Image.from_array,
        Image.from_pil,
        image.apply,
        imageloom.compare,
        lambda v: image.save(v if not isinstance(v, (str, Path)) else "", format="png"),
        lambda v: Image.from_array(PHOTO, metadata=v),
        lambda v: imageloom.open(v).pixels,
        Pipeline,
        Pipeline.parse,
        Pipeline.from_yaml,
        imageloom.read_recipe,
        Image,
        lambda v: prepare(v, "photos", "out", {}),
    ]
    for call in calls:
        with suppress(imageloom.ImageloomError):
            call(value)


@some(150)
@given(
    name=st.sampled_from(dir(ops)),
    values=st.lists(JUNK, max_size=2),
    named=st.dictionaries(
        st.sampled_from(["sigma", "kernel", "size", "area", "value", "x"]), JUNK, max_size=1
    ),
)
@example("gaussian_blur", [object()], {})
@example("gaussian_blur", [np.float64(2)], {})
def test_any_value_of_an_operators_parameter(name: str, values: list[Any], named: dict[str, Any]) -> None:
    with suppress(UsageError, OperatorRefused):
        getattr(ops, name)(PHOTO, *values, **named)
    with suppress(UsageError):
        getattr(Pipeline(), name)(*values, **named)
