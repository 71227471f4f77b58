"""Operators: functions from pixels to pixels, one file for each family. Importing this registers them all."""

from imageloom.operators import blur, edges, geometry, morphology, resize, statistics, threshold, tone
from imageloom.operators.registry import DTYPES, Measure, Operator, apply, get, operator, operators

__all__ = [
    "DTYPES",
    "Measure",
    "Operator",
    "apply",
    "blur",
    "edges",
    "geometry",
    "get",
    "morphology",
    "operator",
    "operators",
    "resize",
    "statistics",
    "threshold",
    "tone",
]
