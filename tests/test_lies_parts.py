"""Workers that lie about parts of large images: pieces, measures, pixels."""

from __future__ import annotations

from pathlib import Path

import pytest

from imageloom.testing import lies
from lied import Case

PARTS = [
    *(("measure", value) for value in ("empty", "bytes", "doubled", "type", "huge", "nested", "missing")),
    *(("pixels", value) for value in ("another", "negative", "2-63")),
    *(("written.0.name", value) for value in ("dotdot", "absolute", "nul")),
    *(("written.0.staged", value) for value in ("dotdot", "absolute", "another")),
    *(("written", value) for value in ("doubled", "empty")),
    *(("pieces", value) for value in ("replayed", "type")),
    ("key", "another"),
]


@pytest.mark.parametrize(
    "pipeline",
    [
        pytest.param("equalize", marks=pytest.mark.long),
        "clahe",
        pytest.param("canny 60 150", marks=pytest.mark.long),
    ],
)
def test_lies_about_parts(pipeline: str, tmp_path: Path) -> None:
    """Each image is done in tiles: what was measured of one goes into the others."""
    case = Case(tmp_path, 2, PARTS, pipeline=pipeline, expected=pipeline)
    flags = ("-j", 2, "--operators", lies.LYING, "--timeout", 3, "--tile", "always")
    case.run("processes", "out", *flags)
    case.check()
    assert set(case.honest) <= case.published
    assert "refused" in case.ran.stderr
