"""Every rewrite is exact: what it makes of a pipeline yields the same pixels, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from imageloom import operators
from imageloom.errors import OperatorRefused
from imageloom.model import Frame, Pixels, Step
from imageloom.recipes.pipeline import Pipeline, frame_of, to_text
from imageloom.recipes.rewrite import RULES, Steps, fold_tables, rewrite

Rule = Callable[[Steps, Frame], Steps]

STEPS = st.one_of(
    st.sampled_from(["horizontal", "vertical"]).map(lambda axis: f"flip {axis}"),
    st.sampled_from([90, 180, 270]).map(lambda degrees: f"rotate {degrees}"),
    st.tuples(st.integers(1, 9), st.integers(1, 9)).map(lambda s: f"crop {s[0]}x{s[1]}"),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3)).map(
        lambda b: f"crop {b[0]}x{b[1]}+{b[2]}+{b[3]}"
    ),
    st.just("invert"),
    st.just("grayscale"),
    st.floats(0, 255).map(lambda value: f"threshold {value}"),
    st.just("threshold otsu"),
    st.tuples(
        st.integers(1, 14),
        st.integers(1, 14),
        st.sampled_from(["exact", "inside", "cover"]),
        st.sampled_from(["auto", "nearest", "cubic", "area"]),
        st.booleans(),
    ).map(lambda r: f"resize {r[0]}x{r[1]} {r[2]} {r[3]} {r[4]}"),
    st.sampled_from(["resize 50%", "resize 130%", "resize 7x", "resize x5", "resize 100%"]),
    st.just("median_blur 3"),
)


@st.composite
def images(draw: DrawFn) -> Pixels:
    """Noise of 1 to 4 channels, 8 or 16 bit, with some of it fully transparent where there is alpha."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    channels = draw(st.integers(1, 4))
    dtype, top = draw(st.sampled_from([("uint8", 255), ("uint16", 65535)]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (height, width) if channels == 1 else (height, width, channels)
    image = random.integers(0, top, shape, endpoint=True).astype(dtype)
    if channels in (2, 4):
        image[:, :, -1][random.random((height, width)) < 0.3] = 0
    return image


@st.composite
def cases(draw: DrawFn) -> tuple[Steps, Pixels]:
    """A pipeline and an image that it takes: steps that are refused are left out."""
    image = draw(images())
    steps: list[Step] = []
    frame = frame_of(image)
    for text in draw(st.lists(STEPS, max_size=7)):
        (step,) = Pipeline(text).steps
        try:
            frame = operators.get(step.name).frame_after(step, frame)
        except OperatorRefused:
            continue
        steps.append(step)
    return tuple(steps), image


def run(steps: Steps, image: Pixels) -> Pixels:
    for step in steps:
        image = operators.apply(step, image)
    return image


def check(rule: Rule, steps: Steps, image: Pixels) -> None:
    rewritten = rule(steps, frame_of(image))
    expected, got = run(steps, image), run(rewritten, image)
    assert got.dtype == expected.dtype
    assert np.array_equal(got, expected), f"{to_text(steps)}  became  {to_text(rewritten)}"


@pytest.mark.parametrize("rule", [*RULES, fold_tables], ids=lambda rule: rule.__name__)
@given(case=cases())
def test_each_rule_is_exact(rule: Rule, case: tuple[Steps, Pixels]) -> None:
    check(rule, *case)


@given(cases())
def test_all_rules_together_are_exact_and_come_to_an_end(case: tuple[Steps, Pixels]) -> None:
    steps, image = case
    check(rewrite, steps, image)
    once = rewrite(steps, frame_of(image))
    assert rewrite(once, frame_of(image)) == once


RGB = Frame(40, 30, 3)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("rotate 90 | rotate 90 | rotate 90 | rotate 90", ""),
        ("rotate 90 | rotate 180", "rotate 270"),
        ("flip | flip", ""),
        ("flip | flip vertical", "rotate 180"),
        ("rotate 180 | flip", "flip vertical"),
        ("rotate 90 | flip | rotate 90", "flip"),
        ("invert | invert", ""),
        ("invert | invert | invert", "invert"),
        ("grayscale | grayscale", "grayscale"),
        ("flip | grayscale", "grayscale | flip"),
        ("rotate 90 | flip | grayscale", "grayscale | rotate 90 | flip"),
        ("resize 100%", ""),
        ("resize 40x30", ""),
        ("resize 50%", "resize 20x15"),
        ("resize 20x", "resize 20x15"),
        ("resize 20x20 fit=inside", "resize 20x15"),
        ("resize 15x15 fit=cover", "resize 20x15 | crop 15x15+2+0"),
        ("resize 80x60 enlarge=false", ""),
        ("crop 40x30", ""),
        ("crop 20x20+5+5 | crop 10x10+1+2", "crop 10x10+6+7"),
        ("invert | crop 10x10+1+2", "crop 10x10+1+2 | invert"),
        ("grayscale | invert | crop 10x10+1+2", "crop 10x10+1+2 | grayscale | invert"),
        ("threshold 10 | crop 10x10", "crop 10x10+15+10 | threshold 10"),
        ("median_blur 3 | crop 10x10+1+2", "median_blur | crop 10x10+1+2"),
        ("grayscale | threshold otsu | crop 10x10+1+2", "grayscale | threshold | crop 10x10+1+2"),
    ],
)
def test_the_rules_fire(before: str, after: str) -> None:
    assert to_text(rewrite(Pipeline(before).steps, RGB)) == after


def test_channelwise_steps_become_one_table_on_8_bits_only() -> None:
    steps = Pipeline("invert | threshold 100 | median_blur 3 | invert").steps
    assert [step.name for step in rewrite(steps, RGB)] == ["table", "median_blur", "invert"]
    deep = Frame(40, 30, 3, "uint16")
    assert [step.name for step in rewrite(steps, deep)] == ["invert", "threshold", "median_blur", "invert"]
    assert rewrite(Pipeline("invert").steps, RGB) == Pipeline("invert").steps


def test_two_negatives_of_floats_are_not_dropped() -> None:
    """1 - (1 - x) differs from x in the last bit."""
    steps = Pipeline("invert | invert").steps
    assert rewrite(steps, Frame(4, 4, 1, "float32")) == steps
