"""imageloom: a pipeline of image filters over a folder of images, fast and byte-identical on every engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from imageloom.api import process
    from imageloom.errors import ImageloomError
    from imageloom.model import Frame, Output, Pixels, Recipe, Step
    from imageloom.operators import operator
    from imageloom.recipes.pipeline import Pipeline
    from imageloom.records.summary import Summary

__all__ = [
    "Frame",
    "ImageloomError",
    "Output",
    "Pipeline",
    "Pixels",
    "Recipe",
    "Step",
    "Summary",
    "operator",
    "process",
]

_WHERE = {
    "process": "api",
    "ImageloomError": "errors",
    "Frame": "model",
    "Output": "model",
    "Pixels": "model",
    "Recipe": "model",
    "Step": "recipes.pipeline",  # steps are joined to pipelines: `a | b`
    "operator": "operators",
    "Pipeline": "recipes.pipeline",
    "Summary": "records.summary",
}


def __getattr__(name: str) -> Any:
    """Public names are loaded when they are asked for: importing the package alone costs nothing."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"imageloom.{_WHERE[name]}"), name)
