"""Operators: functions from pixels to pixels, one file per family. Importing this package registers them all."""

from imageloom.operators import (  # noqa: F401 - each registers its operators
    blur,
    edges,
    geometry,
    hysteresis,
    morphology,
    resize,
    statistics,
    threshold,
    tone,
)
from imageloom.operators.extern import contents, digests_of, load_files, load_packages, reloaded
from imageloom.operators.registry import (
    DTYPES,
    Measure,
    Operator,
    apply,
    apply_on_part,
    frames,
    get,
    operator,
    operators,
)
from imageloom.operators.versions import version

__all__ = [
    "DTYPES",
    "Measure",
    "Operator",
    "apply",
    "apply_on_part",
    "contents",
    "digests_of",
    "frames",
    "get",
    "load_files",
    "load_packages",
    "operator",
    "operators",
    "reloaded",
    "version",
]
