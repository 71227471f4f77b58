"""The conformance suite for operators, as a pytest class:

    from imageloom.testing.operators import OperatorTests

    class TestMine(OperatorTests):
        names = ("vignette",)

The test data are the examples that an operator declares, so a new operator is tested as soon as it is registered.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from imageloom import operators
from imageloom.errors import OperatorRefused, PipelineError
from imageloom.model import Frame, Pixels, Step
from imageloom.operators import DTYPES, Operator
from imageloom.operators.channels import colour
from imageloom.operators.messages import is_text
from imageloom.operators.registry import describe_parameter
from imageloom.recipes.pipeline import Pipeline, frame_of, to_text
from imageloom.testing.strategies import frames, images, steps

laws = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[
        HealthCheck.filter_too_much,
        HealthCheck.too_slow,
        HealthCheck.differing_executors,
    ],
)


class OperatorTests:
    """The suite. Derive a class from it and run it with pytest."""

    names: ClassVar[tuple[str, ...]] = ()
    """Names of the operators to test; empty: all registered operators."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test for all operators that its parameter's name selects."""
        groups: dict[str, Callable[[Operator], bool]] = {
            "operator": lambda o: True,
            "tileable": lambda o: o.declared in ("point", "local"),
            "premultiplied": lambda o: o.alpha == "premultiply",
            "kept": lambda o: o.alpha == "keep",
            "channelwise": lambda o: o.channelwise,
            "measured": lambda o: o.measured is not None,
        }
        tested = [o for o in operators.operators() if not self.names or o.name in self.names]
        for name in groups.keys() & set(metafunc.fixturenames):
            metafunc.parametrize(name, [pytest.param(o, id=o.name) for o in tested if groups[name](o)])

    def test_examples_parse_and_their_text_means_the_same(self, operator: Operator) -> None:
        assert operator.examples
        for example in operator.examples:
            (step,) = Pipeline(example)
            assert step.name == operator.name
            assert Pipeline(to_text([step])).steps == (step,)

    def test_is_documented(self, operator: Operator) -> None:
        assert operator.summary.endswith((".", ")"))
        for parameter in operator.parameters:
            assert describe_parameter(operator, parameter).startswith(f"{parameter}: ")

    def test_refuses_bad_parameters_by_name(self, operator: Operator) -> None:
        (good, *_) = Pipeline(operator.examples[0])
        with pytest.raises(PipelineError, match=f"{operator.name}: there is no parameter 'nonsense'"):
            operator.step({**good.params, "nonsense": 1})
        hints = typing.get_type_hints(operator.function, include_extras=True)
        for name in operator.parameters:
            for bad in _beyond(hints[name]):
                with pytest.raises(PipelineError, match=f"^{operator.name}: {name}"):
                    operator.step({**good.params, name: bad})

    def test_refuses_undeclared_dtypes_by_name(self, operator: Operator) -> None:
        (step, *_) = Pipeline(operator.examples[0])
        for dtype in set(DTYPES) - set(operator.dtypes):
            with pytest.raises(OperatorRefused, match=f"{operator.name} does not take {dtype}"):
                operator.frame_after(step, Frame(800, 600, 1, dtype))

    @laws
    @given(data=st.data())
    def test_makes_the_frame_it_declares(self, operator: Operator, data: st.DataObject) -> None:
        """Shape and dtype agree with `frame_after`. A second call gives the same pixels. Inputs are read-only."""
        step, image = _case(data, operator)
        made = operators.apply(step, image)
        promised, found = operator.frame_after(step, frame_of(image)), frame_of(made)
        if operator.shrinks and found.width <= promised.width and found.height <= promised.height:
            promised = msgspec.structs.replace(promised, width=found.width, height=found.height)
        assert found == promised
        assert np.isfinite(made).all()
        np.testing.assert_array_equal(made, operators.apply(step, image))

    @laws
    @given(data=st.data())
    def test_tiles_equal_the_whole(self, tileable: Operator, data: st.DataObject) -> None:
        """A box of the result depends only on that box of the input and its halo, bit for bit."""
        step, image = _case(data, tileable)
        assume(tileable.kind(step) != "global")
        halo = tileable.halo(**tileable.filled(step)) if tileable.halo else 0
        rows, read_rows = _span(data, image.shape[0], halo)
        columns, read_columns = _span(data, image.shape[1], halo)
        tile = operators.apply(step, np.ascontiguousarray(image[read_rows, read_columns]))
        tile = tile[rows.start - read_rows.start :, columns.start - read_columns.start :]
        whole = operators.apply(step, image)[rows, columns]
        np.testing.assert_array_equal(tile[: whole.shape[0], : whole.shape[1]], whole)

    @laws
    @given(data=st.data())
    def test_what_is_transparent_does_not_bleed(self, premultiplied: Operator, data: st.DataObject) -> None:
        """The colours of fully transparent pixels do not affect the result."""
        step, image = _case(data, premultiplied, channels=(2, 4))
        hidden = data.draw(st.floats(0, 0.9)) * image[..., -1].max() >= image[..., -1]
        image = image.copy()
        image[hidden, -1] = 0
        other = image.copy()
        other[hidden, :-1] = np.random.default_rng(0).permutation(other[hidden, :-1])[::-1] // 2
        np.testing.assert_array_equal(operators.apply(step, image), operators.apply(step, other))

    @laws
    @given(data=st.data())
    def test_alpha_that_is_kept_stays(self, kept: Operator, data: st.DataObject) -> None:
        """Alpha is not changed, and the colours are the same as for the image without alpha."""
        step, image = _case(data, kept, channels=(2, 4))
        made = operators.apply(step, image)
        np.testing.assert_array_equal(made[..., -1], image[..., -1])
        np.testing.assert_array_equal(colour(made), operators.apply(step, colour(image)))

    @laws
    @given(data=st.data())
    def test_a_channelwise_operator_is_a_table(self, channelwise: Operator, data: st.DataObject) -> None:
        """For 8 bits, each value depends only on its own level, so that such steps can become one table."""
        step = data.draw(steps(channelwise))
        assume(channelwise.kind(step) == "point")
        image = data.draw(images(Frame(31, 17, 3, "uint8")))
        table = operators.apply(step, np.arange(256, dtype=np.uint8).reshape(16, 16)).ravel()
        np.testing.assert_array_equal(operators.apply(step, image), table[image])

    @laws
    @given(data=st.data())
    def test_measures_merge(self, measured: Operator, data: st.DataObject) -> None:
        """Measures of parts, merged in any order, give the same step as the measure of the whole image."""
        assert measured.measured is not None
        step, image = _case(data, measured, channels=(1, 3))
        params = measured.filled(step)
        assume(measured.measured.when(**params))
        cut = data.draw(st.integers(0, image.shape[0]))
        parts = [measured.measured.measure(part) for part in (image[:cut], image[cut:]) if part.size]
        if len(parts) == 2 and data.draw(st.booleans()):
            parts.reverse()
        merged = measured.measured.merge(*parts) if len(parts) == 2 else parts[0]
        resolved = measured.measured.resolve(merged, **params)
        assert resolved == measured.measured.resolve(measured.measured.measure(image), **params)
        assert operators.get(resolved.name).kind(resolved) in ("point", "local")
        np.testing.assert_array_equal(operators.apply(resolved, image), operators.apply(step, image))


def _case(
    data: st.DataObject, operator: Operator, channels: tuple[int, ...] = (1, 2, 3, 4)
) -> tuple[Step, Pixels]:
    """A step of the operator and an image that it accepts."""
    step = data.draw(steps(operator))
    return step, data.draw(images(data.draw(frames(operator, step, channels))))


def _span(data: st.DataObject, length: int, halo: int) -> tuple[slice, slice]:
    """A range of an axis, and that range with its halo, clipped at the ends."""
    start = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(start + 1, length))
    return slice(start, stop), slice(max(0, start - halo), min(length, stop + halo))


def _beyond(hint: Any) -> Iterator[Any]:
    """Values that are invalid for a parameter."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        bounds = next(a for a in arguments[1:] if isinstance(a, msgspec.Meta))
        yield from (bound for bound in (bounds.gt, bounds.lt) if bound is not None)
        yield from (bound - 1 for bound in (bounds.ge,) if bound is not None)
        yield from (bound + 1 for bound in (bounds.le,) if bound is not None)
        yield [] if arguments[0] is str else "nonsense"
        if arguments[0] is float:
            yield float("nan")
    elif origin is Literal:
        yield "nonsense"
    elif origin in (typing.Union, types.UnionType):
        if not any(map(is_text, arguments)):
            yield "nonsense"
        yield []
    else:
        yield []
