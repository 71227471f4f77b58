"""Pipelines: sequences of steps, as text, YAML or Python. Each form can be converted to the others.

Text:    resize 512x512 | gaussian_blur sigma=1.2 | canny 100 200
YAML:    a list of `- grayscale`, `- resize: 512x512`, `- canny: [100, 200]`, `- gaussian_blur: {sigma: 1.2}`
Python:  Pipeline(["resize 512x512", Step("canny", {"low": 100})]), or a | b

Steps are always validated: the operator exists, and its parameters have valid types and values.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast, overload

from imageloom import operators
from imageloom.errors import OperatorRefused, PipelineError
from imageloom.model import Frame, Pixels, Step, Value
from imageloom.operators.messages import is_text, too_many
from imageloom.recipes import when
from imageloom.recipes.chained import Chained

if TYPE_CHECKING:
    from numpy import generic
    from numpy.typing import NDArray
    from PIL.Image import Image as PillowImage

    _Scalar = TypeVar("_Scalar", bound=generic)

_NUMBER = re.compile(r"[+-]?\d+$")
_MOST_VALUES = 100_000
"""Maximum number of values in a YAML text."""
_WORDS: dict[str, Value] = {"true": True, "false": False, "none": None}


class TakesSteps(Protocol):
    """An image that knows how steps are applied to it."""

    def __imageloom_apply__(self, pipeline: Pipeline, /) -> Self: ...


_Image = TypeVar("_Image", bound=TakesSteps)


class Pipeline(Chained):
    """A sequence of validated steps. Immutable. Pipelines with equal steps are equal.

    `Pipeline("resize 512x | grayscale")`, `Pipeline().resize("512x").grayscale()` and
    `Step("resize", {"size": "512x"}) | Step("grayscale")` are equal. Call a pipeline to apply it to one image;
    `imageloom.process` applies it to many.

    Args:
        steps: a text with steps, or several of: a `Step`, a text with steps, an entry as in YAML.

    Raises:
        PipelineError: an operator or a parameter is unknown, or a value has a wrong type or is out of range.
    """

    __slots__ = {"steps": "The steps, in their order."}

    steps: tuple[Step, ...]

    def __init__(self, steps: str | Iterable[Step | str | Mapping[str, object]] = ()) -> None:
        parts = [steps] if isinstance(steps, str) else steps
        if isinstance(parts, Mapping) or not isinstance(parts, Iterable):
            raise PipelineError(
                f"steps = {parts!r}: it must be a text such as 'resize 50%', or a list of steps"
            )
        object.__setattr__(self, "steps", tuple(s for part in parts for s in _steps(part)))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a pipeline is immutable")

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """Parse a pipeline from text.

        Raises:
            PipelineError: the text is empty, an operator is unknown, or a parameter is invalid.
        """
        pipeline = cls(text)
        if not pipeline.steps:
            raise PipelineError("the pipeline is empty; give at least one operator, such as 'resize 512x512'")
        return pipeline

    @classmethod
    def from_yaml(cls, text: str | bytes) -> Pipeline:
        """Parse a pipeline from a YAML list of steps. Bytes are UTF-8, or UTF-16 with a byte order mark.

        Raises:
            PipelineError: the text is not such a list, an operator is unknown, or a parameter is invalid.
        """
        data = read_yaml(text, "the pipeline")
        if not isinstance(data, list):
            raise PipelineError("a pipeline in YAML must be a list of steps, such as '- resize: 512x512'")
        return cls(data)

    def to_yaml(self) -> str:
        """The pipeline as a YAML list of steps: `from_yaml` gives an equal one."""
        import yaml

        data = [{s.name: dict(s.params)} if s.params else s.name for s in self.steps]
        return str(yaml.safe_dump(data, sort_keys=False, default_flow_style=None))

    def __or__(self, other: object) -> Pipeline:
        if isinstance(other, Pipeline):
            return Pipeline([*self.steps, *other.steps])
        if isinstance(other, (Step, str)):
            return Pipeline([*self.steps, other])
        return NotImplemented

    def __ror__(self, other: object) -> Pipeline:
        return Pipeline([other]) | self if isinstance(other, str) else NotImplemented

    @overload
    def __call__(self, image: NDArray[_Scalar]) -> NDArray[_Scalar]: ...
    @overload
    def __call__(self, image: PillowImage) -> PillowImage: ...
    @overload
    def __call__(self, image: _Image) -> _Image: ...
    def __call__(self, image: object) -> object:
        """Apply the pipeline to one image, and return an image of the same kind. The input does not change.

        Args:
            image: an array: gray (height, width), or gray+alpha, RGB or RGBA (height, width, 2 to 4), of uint8,
                uint16 or float32 (white is 1); or an `imageloom.Image`; or an image of Pillow, whose orientation
                is applied.

        Raises:
            UsageError: it is no image.
            OperatorRefused: a step does not accept its input.
            OperatorFailed: an operator raised an exception.
        """
        from imageloom.codecs import interop  # a run does not need it

        if hasattr(type(image), "__imageloom_apply__"):
            return cast("TakesSteps", image).__imageloom_apply__(self)
        if interop.is_pil(image):
            pixels, metadata = interop.from_pil(image)
            return interop.to_pil(self._applied(pixels), metadata)
        return self._applied(interop.array_of(image))

    def _applied(self, image: Pixels) -> Pixels:
        frame = frame_of(image)
        self.frames(frame)
        steps = operators.with_checks(self.steps, frame)
        known = operators.length_before(steps)
        for at, step in enumerate(steps):
            image = operators.apply(operators.checked(step, image, 0) if at >= known else step, image)
        return image

    def then(self, name: str, *values: object, **named: object) -> Pipeline:
        """The pipeline with one more step.

        Args:
            name: of the operator.
            values: parameters in the order of a text.
            named: parameters by name.

        Raises:
            PipelineError: the operator or a parameter is unknown, or a value is invalid.
        """
        placed = _by_position(name, list(values))
        if twice := sorted(placed.keys() & named.keys()):
            raise PipelineError(f"{name}: {twice[0]} is given twice, by position and by name")
        return Pipeline(
            [*self.steps, operators.get(name).step(cast("dict[str, Value]", {**placed, **named}))]
        )

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pipeline) and self.steps == other.steps

    def __reduce__(self) -> tuple[type[Pipeline], tuple[tuple[Step, ...]]]:
        return Pipeline, (self.steps,)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        return to_text(self.steps)

    def __repr__(self) -> str:
        return f"Pipeline({str(self)!r})"

    def frames(self, frame: Frame) -> list[Frame]:
        """The frames before the first step and after each step.

        Raises:
            OperatorRefused: a step does not accept its input.
        """
        return operators.frames(self.steps, frame)


def _join(step: Step, other: object) -> Pipeline:
    return Pipeline([step]) | other


Step.join = _join


def frame_of(image: Pixels) -> Frame:
    """The frame of an image in memory.

    Raises:
        OperatorRefused: the array's shape or dtype is not that of an image.
    """
    channels = 1 if image.ndim == 2 else image.shape[2] if image.ndim == 3 else 0
    if channels not in (1, 2, 3, 4) or str(image.dtype) not in operators.DTYPES:
        raise OperatorRefused(
            f"an array of shape {image.shape} and dtype {image.dtype} is not an image: the shape must be (height, "
            f"width) or (height, width, 1 to 4), and the dtype one of {', '.join(operators.DTYPES)}"
        )
    return Frame(image.shape[1], image.shape[0], channels, str(image.dtype))  # type: ignore[arg-type]


def to_text(steps: Iterable[Step]) -> str:
    """The steps as text. Parsing the text gives equal steps."""
    return " | ".join(" ".join([step.name, *_arguments(step)]) for step in steps)


def _arguments(step: Step) -> Iterator[str]:
    """The arguments as words: by position up to the first omitted parameter, then by name."""
    by_position = True
    for name in operators.get(step.name).parameters:
        if name not in step.params:
            by_position = False
            continue
        word = _word(step.params[name])
        # By position, it would be read as a named parameter, or as the end of the step.
        by_position = by_position and "=" not in word and set(word) - {"'", "|"} != set()
        yield word if by_position else f"{name}={word}"


def read_yaml(text: str | bytes, what: str) -> Any:
    """The data in a YAML text.

    Args:
        what: a name of the text, for messages.

    Raises:
        PipelineError: it is not YAML, or it stands for too many values.
    """
    import yaml

    try:
        data = yaml.safe_load(text)
    except Exception as error:  # PyYAML raises many kinds for invalid values and for deep nesting
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error)
        reason = reason.replace("'<stream end>'", "the end of the file")
        raise PipelineError(f"{what}{where} is not YAML: {' '.join(reason.split())}") from None
    waiting, count = [data], 0
    while waiting:  # a value counts each time that an alias repeats it
        one = waiting.pop()
        count += 1
        if count > _MOST_VALUES:
            raise PipelineError(f"{what} has more than {_MOST_VALUES:,} values, which is the limit")
        if isinstance(one, Mapping):
            waiting += [*one, *one.values()]
        elif isinstance(one, list | tuple | set):
            waiting += one
    return data


def split_condition(text: str) -> tuple[str, str]:
    """The condition at the start of a text, and the rest: `when width > 2000 | resize 50%`. It may be empty.

    Raises:
        PipelineError: there is nothing behind the condition.
    """
    start = text.lstrip()
    if not start.startswith("when") or start[4:5] not in (" ", "\t", "\n", "("):
        return "", text
    condition, separator, rest = start[4:].partition("|")
    if not separator or not rest.strip():
        raise PipelineError(f"{text!r}: the steps are missing; for example: when width > 2000 | resize 50%")
    when.parsed(condition.strip())
    return condition.strip(), rest


def _steps(part: Step | str | Mapping[str, object]) -> Iterator[Step]:
    if isinstance(part, Step):
        yield operators.get(part.name).step(dict(part.params))
    elif isinstance(part, str):
        yield from _parse(part)
    elif isinstance(part, Mapping) and len(part) == 1:
        ((name, given),) = part.items()
        yield _entry(str(name), given)
    else:
        raise PipelineError(
            f"a step must be an operator's name, or one name with its parameters, not {part!r}"
        )


def _entry(name: str, given: Any) -> Step:
    """The step of a YAML entry: `name: value`, `name: [values]` or `name: {parameter: value}`."""
    operator = operators.get(name)
    if isinstance(given, Mapping):
        return operator.step({str(k): v for k, v in given.items()})
    values = given if isinstance(given, list) else [] if given is None else [given]
    return operator.step(_by_position(name, values))


def _parse(text: str) -> Iterator[Step]:
    if not text.strip():
        return
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|")
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = list(lexer)
    except ValueError as error:
        raise PipelineError(f"cannot read {text!r}: {str(error).lower()}") from None
    command: list[str] = []
    for word in [*words, "|"]:
        if set(word) != {"|"}:
            command.append(word)
            continue
        if not command or len(word) > 1:
            raise PipelineError(f"there is an empty step in {text!r}: remove the extra '|'")
        yield _command(command)
        command = []


def _command(words: list[str]) -> Step:
    name, *rest = words
    operator = operators.get(name)
    values: list[Value] = []
    named: dict[str, Value] = {}
    texts = [is_text(operator.hints[parameter]) for parameter in operator.parameters]
    for word in rest:
        key, equals, value = word.partition("=")
        if not equals:
            if named:
                raise PipelineError(
                    f"{name}: {word!r} follows a named parameter; give it by name too (name=value)"
                )
            values.append(word if texts[len(values) : len(values) + 1] == [True] else _value(word))
        elif key in named:
            raise PipelineError(f"{name}: {key} is given twice")
        else:
            named[key] = value if is_text(operator.hints.get(key)) else _value(value)
    placed = _by_position(name, values)
    for key in named:
        if key in placed:
            raise PipelineError(f"{name}: {key} is given twice, by position and by name")
    return operator.step({**placed, **named})


def _by_position(name: str, values: list[Any]) -> dict[str, Value]:
    operator = operators.get(name)
    parameters = list(operator.parameters)
    if len(values) > len(parameters):
        raise PipelineError(f"{name}: {too_many(len(values), parameters, operator.examples)}")
    return dict(zip(parameters, values, strict=False))


def _value(word: str) -> Value:
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    try:
        return int(word) if _NUMBER.match(word) else float(word)
    except ValueError:  # also a number of thousands of digits
        return word


def _word(value: Value) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return shlex.quote(value) if isinstance(value, str) else str(value)
