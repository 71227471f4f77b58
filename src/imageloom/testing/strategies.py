"""Hypothesis strategies for the conformance tests: frames, images and steps."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any, Literal

import cv2
import msgspec
import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from imageloom import operators
from imageloom.errors import OperatorRefused, PipelineError
from imageloom.model import Frame, Pixels, Step
from imageloom.operators import Operator
from imageloom.recipes.pipeline import Pipeline

SIZES = (1, 2, 3, 5, 8, 13, 17, 31, 37, 64, 67, 97)
"""Widths and heights: the smallest ones, primes, and sizes at and near the size of vector registers."""

LARGE = (701, 499)
"""Width and height for steps that need larger images, such as a crop of 640x480."""


SAMPLES = Path(__file__).parent / "samples"
"""The files that the examples of operators name."""

MOST_PIXELS = 4_000_000
"""Maximum number of pixels of a result, to limit the memory of tests."""


def takes(operator: Operator, step: Step, frame: Frame) -> bool:
    """Whether the step can be applied to images with this frame."""
    try:
        return operator.frame_after(step, frame).pixels <= MOST_PIXELS
    except OperatorRefused:
        return False


def sampled(step: Step) -> Step:
    """A step of an example, with the path of the file that it names."""
    name = operators.get(step.name).file
    if name not in step.params or not (file := SAMPLES / str(step.params[name])).exists():
        return step
    return Step(step.name, {**step.params, name: str(file)})


@st.composite
def frames(
    draw: st.DrawFn, operator: Operator, step: Step, channels: tuple[int, ...] = (1, 2, 3, 4)
) -> Frame:
    """Frames that the step accepts."""
    sizes, dtypes = st.sampled_from(SIZES), st.sampled_from(operator.dtypes)
    frame = Frame(draw(sizes), draw(sizes), draw(st.sampled_from(channels)), draw(dtypes))
    if not takes(operator, step, frame):
        frame = msgspec.structs.replace(frame, width=LARGE[0], height=LARGE[1])
    assume(takes(operator, step, frame))
    return frame


@st.composite
def images(draw: st.DrawFn, frame: Frame) -> Pixels:
    """Images with this frame: noise, a smooth gradient, or a few levels. The arrays are read-only."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (frame.height, frame.width, frame.channels)[: 2 if frame.channels == 1 else 3]
    values: Pixels = random.random(shape, np.float32)
    texture = draw(st.sampled_from(("noise", "smooth", "flat")))
    if texture == "smooth":
        values = cv2.GaussianBlur(values, (0, 0), 3).reshape(shape)
        values = (values - values.min()) / max(float(np.ptp(values)), 1e-3)
    elif texture == "flat":
        values = np.floor(values * 3) / np.float32(2)
    if frame.dtype != "float32":
        values = np.rint(values * np.iinfo(frame.dtype).max).astype(frame.dtype)
    values.setflags(write=False)
    return values


@st.composite
def steps(draw: st.DrawFn, operator: Operator) -> Step:
    """Steps of an operator: its examples, with other valid values for some parameters."""
    (example,) = map(sampled, Pipeline(draw(st.sampled_from(operator.examples))))
    hints = typing.get_type_hints(operator.function, include_extras=True)
    others = {n: values for n in operator.parameters if not (values := _values(hints[n])).is_empty}
    changed = draw(st.sets(st.sampled_from(sorted(others)))) if others else set()
    params = {**example.params, **{name: draw(others[name]) for name in sorted(changed)}}
    try:
        return operator.step(params)
    except PipelineError:  # these parameters cannot be combined
        return example


def _values(hint: Any) -> st.SearchStrategy[Any]:
    """Valid values of a parameter; none for texts, whose form is known only from the examples."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        bounds = next(a for a in arguments[1:] if isinstance(a, msgspec.Meta))
        low: Any = bounds.gt if bounds.ge is None else bounds.ge
        high: Any = bounds.lt if bounds.le is None else bounds.le
        if arguments[0] is int:
            return st.integers(low, high)
        if arguments[0] is float:
            return st.floats(low, high, exclude_min=bounds.ge is None, exclude_max=bounds.le is None)
        return st.nothing()
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([_values(argument) for argument in arguments])
    return {bool: st.booleans(), type(None): st.none()}.get(hint, st.nothing())
