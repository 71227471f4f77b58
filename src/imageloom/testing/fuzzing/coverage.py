"""Lines of imageloom that an execution reaches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_TESTING = Path(__file__).parents[1]
_ROOT = _TESTING.parent


class LineCoverage:
    """The lines of imageloom, without those of `testing`, that were reached so far in this thread."""

    def __init__(self) -> None:
        self._seen: dict[CodeType, set[int]] = {}
        self._whole: set[CodeType] = set()
        """Code that needs no more tracing: other code, and code of which all lines were reached."""
        self._total = 0

    @property
    def lines(self) -> int:
        """Number of lines that were reached."""
        return self._total

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure what runs in the block."""
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(before)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        if code in self._whole:
            return None
        if code not in self._seen:
            name = code.co_filename
            if not name.startswith(f"{_ROOT}/") or name.startswith(f"{_TESTING}/"):
                self._whole.add(code)
                return None
            self._seen[code] = set()
        return self._line

    def _line(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        code, line = frame.f_code, frame.f_lineno
        seen = self._seen[code]
        if event == "line" and line not in seen:
            seen.add(line)
            self._total += 1
            if seen >= {number for *_, number in code.co_lines() if number} - {code.co_firstlineno}:
                self._whole.add(code)
        return self._line
