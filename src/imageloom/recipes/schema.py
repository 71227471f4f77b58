"""The JSON Schema of recipes and pipelines in YAML, for editors that check and complete while one types."""

from __future__ import annotations

from typing import Any

import msgspec

from imageloom import operators
from imageloom.operators import Operator
from imageloom.operators.registry import describe_parameter
from imageloom.recipes import entries
from imageloom.recipes.recipe import CHOICES

_NOTES = {
    "decode": "How far the decoder may shrink a JPEG before a resize.",
    "damage": "Which damaged files are accepted.",
    "colors": "Keep the colours as the input states them, or convert them to sRGB.",
    "gain_map": "Process the gain map of an Ultra HDR photo along with the photo, or drop it.",
    "metadata": "Keep or remove EXIF, XMP, IPTC and the like.",
}


def recipe_schema() -> dict[str, Any]:
    """The schema, with all operators that are registered."""
    known = list(operators.operators())
    steps = {
        "description": "One step, or several: a text such as 'resize 512x512 | grayscale', or a list of steps.",
        "oneOf": [
            {"type": "string", "examples": ["resize 512x512 | grayscale"]},
            {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/step"}},
        ],
    }
    step = {
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "additionalProperties": False,
                "properties": {one.name: _parameters(one) for one in known},
            },
        ]
    }
    output = {
        "oneOf": [
            {"$ref": "#/$defs/pipeline"},
            {
                "type": "object",
                "required": ["pipeline"],
                "additionalProperties": False,
                "properties": {
                    "pipeline": {"$ref": "#/$defs/pipeline"},
                    **entries.schemas(),
                    "folder": {"type": "string", "description": "Folder in the sink; default: the name."},
                },
            },
        ]
    }
    recipe = {
        "type": "object",
        "required": ["outputs"],
        "additionalProperties": False,
        "properties": {
            **{key: {"description": _NOTES[key], "enum": list(values)} for key, values in CHOICES.items()},
            "operators": {
                "description": "Python files of operators; they must be given with --operators too.",
                "type": ["array", "string"],
                "items": {"type": "string"},
            },
            "outputs": {
                "description": "Each output has a name and a pipeline.",
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {"$ref": "#/$defs/output"},
            },
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A recipe of imageloom",
        "$defs": {"pipeline": steps, "step": step, "output": output},
        "oneOf": [recipe, {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/step"}}],
    }


def _parameters(operator: Operator) -> dict[str, Any]:
    """What may follow an operator's name: its parameters by name, one value, a list of values, or nothing."""
    made = msgspec.json.schema(operator.schema)
    found = made["$defs"][operator.name]
    properties = {
        name: {**rest, "description": describe_parameter(operator, name)}
        for name, rest in found["properties"].items()
    }
    by_name = {
        "type": "object",
        "properties": properties,
        "required": found.get("required", []),
        "additionalProperties": False,
    }
    return {
        "description": operator.summary,
        "anyOf": [by_name, {"type": ["string", "number", "boolean", "null", "array"]}],
    }
