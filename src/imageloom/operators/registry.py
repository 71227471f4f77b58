"""The registry of operators: their properties, their parameters, and how a step is run.

An operator is a plain function from pixels to pixels with typed keyword parameters. The decorator `operator`
registers the function and returns it unchanged. The function always gets gray (h, w) or RGB (h, w, 3): alpha is
separated, or premultiplied and filtered too, as the operator declares.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
from msgspec.structs import replace

from imageloom.errors import OperatorFailed, OperatorRefused, PipelineError
from imageloom.model import Box, DType, Frame, Pixels, Step, Value
from imageloom.operators import messages, own
from imageloom.operators.channels import colour, premultiplied, shown, split, with_alpha
from imageloom.operators.extern import load_packages, reloaded
from imageloom.operators.light import in_linear_light
from imageloom.operators.measures import Measure

Kind = Literal["point", "local", "geometric", "global"]
Alpha = Literal["keep", "premultiply", "together", "drop"]
Extra = Literal["keep", "refuse", "drop"]
F = TypeVar("F", bound=Callable[..., Pixels])

DTYPES: tuple[DType, ...] = ("uint8", "uint16", "float32")


class Operator(msgspec.Struct, frozen=True, eq=False, dict=True):
    """A registered operator. See `operator` for the meaning of the fields."""

    name: str
    function: Callable[..., Pixels]
    declared: Kind
    dtypes: tuple[DType, ...]
    alpha: Alpha
    channelwise: bool
    halo: Callable[..., int] | None
    frame: Callable[..., Frame] | None
    refuse: Callable[..., str | None] | None
    check: Callable[..., str | None] | None
    measured: Measure | None
    examples: tuple[str, ...]
    hidden: bool
    source: Callable[..., Box] | None
    part: Callable[..., Pixels] | None
    whole: Callable[..., str | None] | None
    tiled_as: Callable[..., tuple[Step, ...]] | None
    ranged: bool
    extra: Extra
    file: str
    shrinks: bool

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The parameters by name, in the order of positional values in a text."""
        found = list(inspect.signature(self.function).parameters.values())
        return {parameter.name: parameter for parameter in found[1:]}

    @cached_property
    def hints(self) -> dict[str, Any]:
        """The annotations of the parameters by name."""
        return typing.get_type_hints(self.function, include_extras=True)

    @cached_property
    def schema(self) -> type[msgspec.Struct]:
        """A struct type with the parameters as fields. It converts values and checks their ranges."""
        fields: list[Any] = []
        for name, parameter in self.parameters.items():
            required = parameter.default is inspect.Parameter.empty
            hint = self.hints[name]
            fields.append((name, hint) if required else (name, hint, parameter.default))
        return msgspec.defstruct(self.name, fields, kw_only=True, forbid_unknown_fields=True)

    def step(self, params: dict[str, Value]) -> Step:
        """A validated step of this operator, with only the parameters that differ from their defaults.

        Raises:
            PipelineError: a parameter is unknown, missing, of a wrong type or out of range; the message names it.
        """
        for name in params:
            if name not in self.parameters:
                unknown = messages.unknown_parameter(name, self.parameters, self.examples)
                raise PipelineError(f"{self.name}: {unknown}")
        params = {n: v.item() if isinstance(v, np.generic) else v for n, v in params.items()}
        try:
            checked = msgspec.to_builtins(msgspec.convert(params, self.schema))
            "".join(
                map(str, checked.values())
            ).encode()  # a text that cannot be sent to a worker is refused here
        except msgspec.ValidationError as error:
            wrong = messages.wrong_parameter(str(error), params, self.hints, self.examples)
            raise PipelineError(f"{self.name}: {wrong}") from None
        except UnicodeEncodeError:
            raise PipelineError(f"{self.name}: a value is not valid UTF-8") from None
        for name, value in checked.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise PipelineError(f"{self.name}: {name} must be a finite number, not {value}")
        reason = self.check(**checked) if self.check else None
        if reason:
            raise PipelineError(f"{self.name}: {reason}{messages.for_example(self.examples)}")
        kept = {n: v for n, v in checked.items() if v != self.parameters[n].default}
        return Step(self.name, kept)

    def filled(self, step: Step) -> dict[str, Any]:
        """All parameters of a step, the defaults included."""
        return {n: step.params.get(n, p.default) for n, p in self.parameters.items()}

    def kind(self, step: Step) -> Kind:
        if self.measured and self.measured.when(**self.filled(step)):
            return "global"
        return self.declared

    def frame_after(self, step: Step, frame: Frame) -> Frame:
        """The frame of the step's result for an input of `frame`.

        Raises:
            OperatorRefused: the operator does not accept such pixels.
        """
        if frame.dtype not in self.dtypes:
            takes = ", ".join(self.dtypes)
            raise OperatorRefused(f"{self.name} does not take {frame.dtype} pixels; it takes {takes}")
        if frame.extra and self.extra == "refuse":
            raise OperatorRefused(
                f"{self.name} does not take extra samples, and the image has {frame.extra}: channels that are "
                "neither colours nor alpha. Outputs in other formats than TIFF are made without them"
            )
        if frame.extra and self.ranged and self.declared == "local" and frame.dtype == "float32":
            raise OperatorRefused(f"{self.name} does not take extra samples of float32")
        extra = frame.extra if self.extra == "keep" else 0
        params, frame = self.filled(step), frame.without_extra
        reason = self.refuse(frame, **params) if self.refuse else None
        if reason:
            raise OperatorRefused(f"{self.name}: {reason}")
        after = self.frame(frame, **params) if self.frame else frame
        if self.alpha == "drop" and after.channels in (2, 4):
            after = replace(after, channels=after.channels - 1)
        return replace(after, channels=after.channels + extra, extra=extra) if extra else after

    def __call__(self, image: Pixels, step: Step, extra: int = 0) -> Pixels:
        """Apply the step to a whole image.

        Args:
            extra: the number of extra samples, see `Frame.extra`.
        """
        if self.measured and self.measured.when(**self.filled(step)):
            box = Box(0, 0, image.shape[1], image.shape[0])
            measure = self.measured.of(colour(image, extra), box, self.filled(step))
            (resolved,) = self.measured.steps(measure, [box], self.filled(step))
            return get(resolved.name)(image, resolved, extra)
        if self.tiled_as and self.declared == "geometric":
            parts = self.tiled_as(Frame.of(shown(image, extra)), **self.filled(step))
            for part in parts:
                image = get(part.name)(image, part, extra)
            if parts:
                return image
        return self._run(image, partial(self.function, **step.params), step, extra)

    def needs(self, step: Step, box: Box, frame: Frame) -> Box:
        """The box of the input, whose frame is `frame`, that is needed to compute `box` of the step's result."""
        if self.halo:
            return box.grown(self.halo(**self.filled(step))).within(Box.of(frame))
        return self.source(box, frame, **self.filled(step)) if self.source else box

    def on_part(self, image: Pixels, step: Step, box: Box, frame: Frame) -> Pixels:
        """Apply the step to a part of an image of `frame`.

        Args:
            image: the pixels of the box that `needs` returns; for a local operator, possibly with more around it.
            box: the box of the result to compute.

        Returns:
            The pixels of the box. For a local operator: as many pixels as `image` has.
        """
        if self.part:
            part = partial(self.part, box=box, frame=frame.without_extra, **self.filled(step))
            return self._run(image, part, step, frame.extra)
        return self(image, step, frame.extra)

    def _run(self, image: Pixels, function: Callable[[Pixels], Pixels], step: Step, extra: int = 0) -> Pixels:
        """Apply a function for gray or RGB to an image with or without alpha, as the operator declares; in linear
        light if the step has light=linear.

        Local and geometric operators process each extra sample as a gray image. Others do not change it.
        """
        if extra:
            main, *bands = split(image, extra)
            if self.extra == "drop":
                return self._run(main, function, step)
            if self.declared in ("local", "geometric"):
                bands = [function(band) for band in bands]
            return np.dstack((self._run(main, function, step), *bands))
        if step.params.get("light") == "linear":
            return in_linear_light(partial(self._colours, function=function), image)
        return self._colours(image, function)

    def _colours(self, image: Pixels, function: Callable[[Pixels], Pixels]) -> Pixels:
        """`_run` without extra samples, in the light of the image."""
        has_alpha = image.ndim == 3 and image.shape[2] in (2, 4)
        if own.is_own(self.function):
            keeps_shape = self.frame is None and self.declared != "geometric"
            function = own.checked(self.function, function, keeps_shape)
        if not has_alpha or self.alpha == "together":
            return function(image)
        if self.alpha == "drop":
            return function(colour(image))
        alpha = np.ascontiguousarray(image[:, :, -1])
        if self.alpha == "keep":
            return with_alpha(function(colour(image)), alpha)
        return premultiplied(image, alpha, function)


_OPERATORS: dict[str, Operator] = {}


def operator(
    kind: Kind,
    *,
    examples: tuple[str, ...] = (),
    dtypes: tuple[DType, ...] = DTYPES,
    alpha: Alpha | None = None,
    channelwise: bool = False,
    halo: Callable[..., int] | None = None,
    frame: Callable[..., Frame] | None = None,
    refuse: Callable[..., str | None] | None = None,
    check: Callable[..., str | None] | None = None,
    measured: Measure | None = None,
    hidden: bool = False,
    source: Callable[..., Box] | None = None,
    part: Callable[..., Pixels] | None = None,
    whole: Callable[..., str | None] | None = None,
    tiled_as: Callable[..., tuple[Step, ...]] | None = None,
    ranged: bool = False,
    extra: Extra = "keep",
    file: str = "",
    shrinks: bool = False,
) -> Callable[[F], F]:
    """Register a function as an operator under the function's name. The function is returned unchanged.

    The function takes an array (height, width) or (height, width, 3), and typed keyword parameters. The
    annotations give the ranges of the parameters (`Annotated[int, Meta(ge=1, le=99)]`).

    Args:
        kind: *point*: an output pixel depends only on the same input pixel. *local*: on its neighbours within the
            halo. *geometric*: pixels are moved; the size may change. *global*: on all pixels of the image.
        examples: texts of one step each, for help, error messages and tests.
        dtypes: the dtypes that the function accepts; the planner refuses others.
        alpha: *keep*: alpha is not changed. *premultiply*: colour is multiplied by alpha, and alpha is filtered
            too. *together*: alpha is filtered as one more channel. *drop*: alpha is removed. Default by kind: keep
            for point and global, premultiply for local, together for geometric.
        channelwise: each output value depends only on one input value, so that for 8 bits the operator can be
            replaced by a table of 256 values.
        halo: (parameters) -> how many pixels around a box are read. Required for local operators only.
        frame: (input's frame, parameters) -> the output's frame; None: the input's frame.
        refuse: (input's frame, parameters) -> why the operator cannot be applied, or None.
        check: (parameters) -> why these parameters cannot be combined, or None.
        measured: how a global operator is computed in parts.
        hidden: only the planner creates such steps; users cannot name the operator.
        source: (box of the output, input's frame, parameters) -> the box of the input that is needed for it. A
            geometric operator without a source is applied to whole images only.
        part: (pixels of the source, box=, frame=, parameters) -> the pixels of a box of the output, if the
            function itself cannot compute them.
        whole: (input's frame, parameters) -> why the operator needs the whole image, or None.
        tiled_as: (input's frame, parameters) -> equivalent steps that can be applied in tiles, for a global
            operator without a measure, and for a geometric one. The whole image too goes through those of a
            geometric operator; it has none where the step itself is tiled.
        ranged: the result has a meaning only for values from black to white. Float images with other values are
            refused, see `ranges`.
        extra: *keep*: local and geometric operators process each extra sample as a gray image, others do not
            change it. *refuse*: images with extra samples are refused. *drop*: extra samples are removed.
        file: name of the parameter that is the path of a file, if there is one. The operator then has a parameter
            `digest` too, which jobs fill in: see `named`.
        shrinks: the size of the result depends on the pixels; it is at most that of `frame`.

    Raises:
        PipelineError: the name is taken, the kind is unknown, a parameter of a user's function has no type, or
            halo does not fit the kind.
    """
    by_kind: dict[Kind, Alpha] = {
        "point": "keep",
        "local": "premultiply",
        "geometric": "together",
        "global": "keep",
    }
    own.check_kind(kind, by_kind)

    def register(function: F) -> F:
        own.check_declaration(function)
        name = function.__name__.rstrip("_")
        if name in _OPERATORS and _OPERATORS[name].function.__module__ != function.__module__:
            there = own.place_of(_OPERATORS[name].function)
            whose = f"another file ({there})" if own.is_own(_OPERATORS[name].function) else "imageloom"
            raise PipelineError(f"{whose} has an operator {name!r} already: give the function another name")
        if (kind == "local") != (halo is not None):
            raise PipelineError(
                f"operator {name!r}: the kind local needs a halo, the number of pixels around each pixel that "
                "the function reads, and other kinds have none; for example: "
                '@operator("local", halo=lambda radius: radius)'
            )
        _OPERATORS[name] = Operator(
            name,
            function,
            kind,
            dtypes,
            alpha or by_kind[kind],
            channelwise,
            halo,
            frame,
            refuse,
            check,
            measured,
            examples,
            hidden,
            source,
            part,
            whole,
            tiled_as,
            ranged,
            extra,
            file,
            shrinks,
        )
        return function

    return register


def get(name: str) -> Operator:
    """The operator of that name.

    Raises:
        PipelineError: there is no such operator; the message names the nearest.
    """
    found = _OPERATORS.get(name)
    if found is None:
        load_packages()
        found = _OPERATORS.get(name)
    if found is None:
        raise PipelineError(messages.unknown_operator(name, [o.name for o in operators()]))
    return found


def _forget(module: str) -> None:
    """Drop the operators of a module."""
    for name in [name for name, one in _OPERATORS.items() if one.function.__module__ == module]:
        del _OPERATORS[name]


reloaded.append(_forget)


def operators() -> Iterator[Operator]:
    """The operators that users can name, in the order of their registration."""
    return (o for o in _OPERATORS.values() if not o.hidden)


def frames(steps: Iterable[Step], frame: Frame) -> list[Frame]:
    """The frames before the first step and after each one.

    Raises:
        OperatorRefused: a step does not accept its input. After a step that shrinks, that is not known yet.
    """
    found, is_known = [frame], True
    for step in steps:
        one = get(step.name)
        try:
            found.append(one.frame_after(step, found[-1]))
        except OperatorRefused:
            if is_known:
                raise
            found.append(found[-1])
        is_known = is_known and not one.shrinks
    return found


def extra_before(steps: Sequence[Step], frame: Frame) -> list[int]:
    """The number of extra samples before each step."""
    return [one.extra for one in frames(steps, frame)[:-1]] if frame.extra else [0] * len(steps)


def apply(step: Step, image: Pixels, extra: int = 0) -> Pixels:
    """Apply one step to an image.

    Args:
        extra: the number of extra samples, see `Frame.extra`.

    Raises:
        OperatorRefused: the values are outside the range that an operator needs.
        OperatorFailed: the operator raised an exception; the message names the operator.
    """
    try:
        return get(step.name)(image, step, extra)
    except (MemoryError, OperatorFailed, OperatorRefused):
        raise
    except Exception as error:
        raise _failed(step, error) from error


def apply_on_part(step: Step, image: Pixels, box: Box, frame: Frame) -> Pixels:
    """Apply one step to a part of an image; see `Operator.on_part`.

    Raises:
        OperatorFailed: the operator raised an exception; the message names the operator.
    """
    try:
        return get(step.name).on_part(image, step, box, frame)
    except (MemoryError, OperatorFailed, OperatorRefused):
        raise
    except Exception as error:
        raise _failed(step, error) from error


def _failed(step: Step, error: Exception) -> OperatorFailed:
    text = " ".join(str(error).split())
    where = own.raised_at(get(step.name).function, error)
    return OperatorFailed(f"{step.name} failed{where}: {type(error).__name__}: {text}")


def describe_parameter(operator: Operator, name: str) -> str:
    """One line about a parameter: its type, its range and its default."""
    default = operator.parameters[name].default
    text = f"{name}: {messages.describe(operator.hints[name])}"
    return text if default is inspect.Parameter.empty else f"{text}  [{default}]"
