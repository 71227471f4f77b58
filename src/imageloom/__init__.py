"""imageloom: a pipeline of image filters over a folder of images, fast and byte-identical on every engine.

One image: `open`, `Image`, `Pipeline`, `ops`. Many images: `process`, `stream`, `start`. Your own operators:
`operator`. docs/python.md shows them.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # type checkers take it as true; the import of typing takes milliseconds

if TYPE_CHECKING:
    from msgspec import Meta

    from imageloom import errors, ops
    from imageloom.api import process, start, stream
    from imageloom.codecs.metadata import Density, Luminance, Metadata, Primaries, Text
    from imageloom.errors import (
        CorruptImage,
        EngineFailed,
        ImageloomError,
        ItemError,
        LimitExceeded,
        MetadataLost,
        MissingExtra,
        MissingFile,
        OperatorFailed,
        OperatorRefused,
        PipelineError,
        SinkBusy,
        StorageError,
        UnreadableItem,
        UnsupportedImage,
        UsageError,
    )
    from imageloom.interface.comparing import Comparison, compare
    from imageloom.interface.image import Image, Saved
    from imageloom.interface.opening import open
    from imageloom.interface.options import Options, SandboxMode
    from imageloom.interface.results import ItemResult, Progress
    from imageloom.interface.running import Job, Stream
    from imageloom.model import (
        Box,
        Chroma,
        Colors,
        Damage,
        Decode,
        DType,
        Failure,
        Format,
        Frame,
        GainMap,
        IfExists,
        Keep,
        Limits,
        Links,
        Output,
        Pages,
        Pixels,
        Recipe,
        Step,
    )
    from imageloom.operators import Measure, operator
    from imageloom.recipes.pipeline import Pipeline
    from imageloom.recipes.recipe import read_recipe
    from imageloom.records.events import (
        Advanced,
        Began,
        Collected,
        Done,
        Event,
        Failed,
        Listener,
        Planned,
        Pruned,
        Retried,
        Skipped,
        Started,
    )
    from imageloom.records.summary import Summary
    from imageloom.service.httpclient import Client

__all__ = [
    "Advanced",
    "Began",
    "Box",
    "Chroma",
    "Client",
    "Collected",
    "Colors",
    "Comparison",
    "CorruptImage",
    "DType",
    "Damage",
    "Decode",
    "Density",
    "Done",
    "EngineFailed",
    "Event",
    "Failed",
    "Failure",
    "Format",
    "Frame",
    "GainMap",
    "IfExists",
    "Image",
    "ImageloomError",
    "ItemError",
    "ItemResult",
    "Job",
    "Keep",
    "LimitExceeded",
    "Limits",
    "Links",
    "Listener",
    "Luminance",
    "Measure",
    "Meta",
    "Metadata",
    "MetadataLost",
    "MissingExtra",
    "MissingFile",
    "OperatorFailed",
    "OperatorRefused",
    "Options",
    "Output",
    "Pages",
    "Pipeline",
    "PipelineError",
    "Pixels",
    "Planned",
    "Primaries",
    "Progress",
    "Pruned",
    "Recipe",
    "Retried",
    "SandboxMode",
    "Saved",
    "SinkBusy",
    "Skipped",
    "Started",
    "Step",
    "StorageError",
    "Stream",
    "Summary",
    "Text",
    "UnreadableItem",
    "UnsupportedImage",
    "UsageError",
    "__version__",
    "compare",
    "errors",
    "open",
    "operator",
    "ops",
    "process",
    "read_recipe",
    "start",
    "stream",
]

_WHERE = {
    "api": ("process", "start", "stream"),
    "codecs.metadata": ("Density", "Luminance", "Metadata", "Primaries", "Text"),
    "errors": (
        "CorruptImage",
        "EngineFailed",
        "ImageloomError",
        "ItemError",
        "LimitExceeded",
        "MetadataLost",
        "MissingExtra",
        "MissingFile",
        "OperatorFailed",
        "OperatorRefused",
        "PipelineError",
        "SinkBusy",
        "StorageError",
        "UnreadableItem",
        "UnsupportedImage",
        "UsageError",
    ),
    "interface.comparing": ("Comparison", "compare"),
    "interface.image": ("Image", "Saved"),
    "interface.opening": ("open",),
    "interface.options": ("Options", "SandboxMode"),
    "interface.results": ("ItemResult", "Progress"),
    "interface.running": ("Job", "Stream"),
    "model": (
        "Box",
        "Chroma",
        "Colors",
        "DType",
        "Damage",
        "Decode",
        "Failure",
        "Format",
        "Frame",
        "GainMap",
        "IfExists",
        "Keep",
        "Limits",
        "Links",
        "Output",
        "Pages",
        "Pixels",
        "Recipe",
    ),
    "operators": ("Measure", "operator"),
    "recipes.pipeline": ("Pipeline", "Step"),  # steps are joined to pipelines: `a | b`
    "recipes.recipe": ("read_recipe",),
    "records.events": (
        "Advanced",
        "Began",
        "Collected",
        "Done",
        "Event",
        "Failed",
        "Listener",
        "Planned",
        "Pruned",
        "Retried",
        "Skipped",
        "Started",
    ),
    "records.summary": ("Summary",),
    "service.httpclient": ("Client",),
}
"""The public names, by the module that has them."""


if not TYPE_CHECKING:  # so that type checkers refuse a name that does not exist

    def __getattr__(name: str) -> object:
        """Public names are loaded when they are asked for: importing the package alone costs nothing."""
        import importlib

        if name in ("errors", "ops"):
            return importlib.import_module(f"imageloom.{name}")
        if name == "Meta":
            return importlib.import_module("msgspec").Meta
        for module, names in _WHERE.items():
            if name in names:
                found = globals()[name] = getattr(importlib.import_module(f"imageloom.{module}"), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
