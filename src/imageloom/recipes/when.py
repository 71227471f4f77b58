"""Conditions of outputs: an output is made only of items for which its condition holds.

    width > 2000
    format == png or format == gif
    portrait and not (pages > 1)

A condition is about the header of an item's file. Its grammar:

    condition  = conjunction {"or" conjunction}
    conjunction = negation {"and" negation}
    negation   = "not" negation | "(" condition ")" | test
    test       = word | number-field operator number | "format" ("==" | "!=") format

The words are portrait, landscape, square, alpha, gray and lossless. The number fields are width, height, pixels,
pages, channels and bits; width and height are those of the upright image. The operators are >, >=, <, <=, ==
and !=.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import lru_cache

from imageloom import codecs
from imageloom.errors import PipelineError
from imageloom.model import Header
from imageloom.recipes.formats import parse_format

Condition = Callable[[Header], bool]

MOST_CHARACTERS = 1000
"""Maximum length of a condition."""
_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?[kKmM]?)|([A-Za-z_][A-Za-z_0-9]*)|(>=|<=|==|!=|>|<|\(|\)))")
_SCALES = {"k": 1e3, "m": 1e6}
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
_BITS = {"uint8": 8, "uint16": 16, "float32": 32}


def upright_size(header: Header) -> tuple[int, int]:
    """Width and height of an image after its orientation is applied."""
    width, height = header.frame.width, header.frame.height
    return (height, width) if header.orientation >= 5 else (width, height)


_NUMBERS: dict[str, Callable[[Header], int]] = {
    "width": lambda header: upright_size(header)[0],
    "height": lambda header: upright_size(header)[1],
    "pixels": lambda header: header.frame.pixels,
    "pages": lambda header: header.pages,
    "channels": lambda header: header.frame.channels,
    "bits": lambda header: _BITS[header.frame.dtype],
}
_WORDS: dict[str, Condition] = {
    "portrait": lambda header: upright_size(header)[0] < upright_size(header)[1],
    "landscape": lambda header: upright_size(header)[0] > upright_size(header)[1],
    "square": lambda header: header.frame.width == header.frame.height,
    "alpha": lambda header: header.frame.without_extra.channels in (2, 4),
    "gray": lambda header: header.frame.without_extra.channels <= 2,
    "lossless": lambda header: header.lossless or not codecs.get(header.format).quality,
}
WORDS = (*_WORDS, *_NUMBERS, "format")
"""All words of conditions but and, or, not."""


def holds(condition: str, header: Header) -> bool:
    """Whether a condition holds for an image. An empty one always does.

    Raises:
        PipelineError: see `parsed`.
    """
    return not condition or parsed(condition)(header)


@lru_cache(maxsize=64)
def parsed(text: str) -> Condition:
    """The condition that a text says.

    Raises:
        PipelineError: it is not a condition; the message names the position.
    """
    if len(text) > MOST_CHARACTERS:
        raise PipelineError(f"a condition has at most {MOST_CHARACTERS:,} characters, not {len(text):,}")
    return _Parser(text).whole()


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, int]] = []
        at = 0
        end = len(text.rstrip())
        while at < end:
            found = _TOKEN.match(text, at)
            if found is None:
                at += len(text[at:]) - len(text[at:].lstrip())
                hint = ": write ==" if text[at] == "=" else ""
                raise self._wrong(f"{text[at]!r} is not expected{hint}", at)
            self._tokens.append((found[0].strip(), found.end() - len(found[0].strip())))
            at = found.end()
        self._at = 0

    def whole(self) -> Condition:
        made = self._either()
        if self._at < len(self._tokens):
            raise self._wrong(f"{self._next!r} is not expected; tests are joined by and, or", self._place)
        return made

    @property
    def _next(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    @property
    def _place(self) -> int:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else len(self._text.rstrip())

    def _take(self) -> str:
        token = self._next
        self._at += 1
        return token

    def _wrong(self, reason: str, at: int) -> PipelineError:
        return PipelineError(f"the condition {self._text!r}: at character {at + 1}: {reason}")

    def _either(self) -> Condition:
        tests = [self._both()]
        while self._next == "or":
            self._take()
            tests.append(self._both())
        return tests[0] if len(tests) == 1 else lambda header: any(test(header) for test in tests)

    def _both(self) -> Condition:
        tests = [self._single()]
        while self._next == "and":
            self._take()
            tests.append(self._single())
        return tests[0] if len(tests) == 1 else lambda header: all(test(header) for test in tests)

    def _single(self) -> Condition:
        negated = False
        while self._next == "not":
            self._take()
            negated = not negated
        if self._next == "(":
            self._take()
            test = self._either()
            if self._next != ")":
                raise self._wrong("a ')' is missing", self._place)
            self._take()
        else:
            test = self._test()
        return (lambda header: not test(header)) if negated else test

    def _test(self) -> Condition:
        word, at = self._next, self._place
        if word in _WORDS:
            self._take()
            return _WORDS[word]
        if word == "format":
            self._take()
            return self._format()
        if word not in _NUMBERS:
            nearest = get_close_matches(word, WORDS, 1)
            hint = f" (did you mean {nearest[0]}?)" if nearest else ""
            said = f"{word!r} is not a test" if word else "a test is missing"
            raise self._wrong(f"{said}{hint}; the tests are: {', '.join(WORDS)}", at)
        self._take()
        field, compare = _NUMBERS[word], self._operator(word, tuple(_OPERATORS))
        at, number = self._place, self._take()
        if not re.fullmatch(r"[\d.]+[kKmM]?", number):
            raise self._wrong(f"{word} is compared with a number, such as {word} > 2000", at)
        value = float(number.rstrip("kKmM")) * _SCALES.get(number[-1].lower(), 1)
        return lambda header: _OPERATORS[compare](field(header), value)

    def _operator(self, field: str, known: tuple[str, ...]) -> str:
        if self._next not in known:
            said = f", not {self._next!r}" if self._next else ""
            raise self._wrong(f"after {field} comes one of {' '.join(known)}{said}", self._place)
        return self._take()

    def _format(self) -> Condition:
        is_equal, at = self._operator("format", ("==", "!=")) == "==", self._place
        try:
            wanted = parse_format(self._take())
        except PipelineError as error:
            raise self._wrong(str(error), at) from None
        return lambda header: (header.format == wanted) == is_equal
