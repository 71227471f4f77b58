"""Operators: functions from pixels to pixels, one file per family. Importing this package registers them all."""

from imageloom.operators import (  # noqa: F401 - each registers its operators
    blur,
    borders,
    colours,
    edges,
    geometry,
    hysteresis,
    interest,
    lut,
    morphology,
    overlays,
    ranges,
    resize,
    smoothing,
    statistics,
    texts,
    threshold,
    tone,
    trimming,
)
from imageloom.operators.channels import shown
from imageloom.operators.extern import contents, digests_of, load_files, load_packages, reloaded
from imageloom.operators.measures import Measure
from imageloom.operators.ranges import with_checks
from imageloom.operators.registry import (
    DTYPES,
    Operator,
    apply,
    apply_on_part,
    describe_parameter,
    extra_before,
    frames,
    get,
    operator,
    operators,
)
from imageloom.operators.templates import TEMPLATE, templates
from imageloom.operators.trimming import checked, is_known, length_before
from imageloom.operators.versions import version

__all__ = [
    "DTYPES",
    "TEMPLATE",
    "Measure",
    "Operator",
    "apply",
    "apply_on_part",
    "checked",
    "contents",
    "describe_parameter",
    "digests_of",
    "extra_before",
    "frames",
    "get",
    "is_known",
    "length_before",
    "load_files",
    "load_packages",
    "operator",
    "operators",
    "reloaded",
    "shown",
    "templates",
    "version",
    "with_checks",
]
