"""Recipes: one or more pipelines over one decode of each image, from text and YAML.

A recipe in YAML:

    decode: safe                  # fast, exact
    metadata: keep                # strip
    operators: [my_ops.py]        # files with operators of one's own: who runs it must name them too
    outputs:
      gray: grayscale
      edges:
        pipeline: grayscale | canny 100 200
        format: png
        quality: 90
        folder: lines             # by default the output's name
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from imageloom import codecs, operators
from imageloom.errors import PipelineError, UsageError
from imageloom.model import Format, Output, Recipe
from imageloom.recipes.pipeline import Pipeline

_RECIPE_KEYS = {"decode", "metadata", "operators", "outputs"}
_OUTPUT_KEYS = {"pipeline", "format", "quality", "folder"}
_CHOICES = {"decode": ("safe", "fast", "exact"), "metadata": ("keep", "strip")}


def parse_format(name: str) -> Format:
    """The format by its name or by a suffix of its files.

    Raises:
        PipelineError: there is none; the message lists the known ones.
        UsageError: its plug-in cannot be loaded.
    """
    found = codecs.format_of(f".{name.lower()}")
    if found is None and name.lower() in codecs.CODECS:
        found = codecs.get(name.lower()).format
    if found is None:
        known = ", ".join(codecs.CODECS.names())
        raise PipelineError(f"there is no format {name!r}; there are: {known}")
    return found


def parse_output(text: str) -> Output:
    """The output that `NAME=PIPELINE` means, in the folder NAME.

    Raises:
        PipelineError: there is no name, or the pipeline makes no sense.
    """
    name, equals, pipeline = text.partition("=")
    if not equals or not name.strip() or " " in name.strip():
        raise PipelineError(f"an output is NAME=PIPELINE, as in gray='grayscale', not {text!r}")
    return Output(Pipeline.parse(pipeline).steps, folder=_folder(name.strip()))


def read_recipe(text: str, files: Sequence[str] = ()) -> Recipe:
    """The recipe that a text means: a pipeline, or the name of a YAML file with a pipeline or a recipe.

    Args:
        files: of operators, which are loaded: a recipe may come from a stranger, so no others run for it.

    Raises:
        PipelineError: what is wrong, in which output, or that the file cannot be read.
        UsageError: a file of operators cannot be loaded, or the recipe needs one that is not among them.
    """
    loaded = with_operators(Recipe(()), files)
    path = Path(text)
    if path.suffix not in (".yaml", ".yml"):
        return replace(loaded, outputs=(Output(Pipeline.parse(text).steps),))
    import yaml

    try:
        data = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise PipelineError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if isinstance(data, Mapping):
        return _from_mapping(data, path, loaded)
    if isinstance(data, list) and data:
        return replace(loaded, outputs=(Output(Pipeline(data).steps),))
    raise PipelineError(f"{path} holds neither a list of steps nor a mapping with outputs")


def _from_mapping(data: Mapping[str, Any], path: Path, loaded: Recipe) -> Recipe:
    _only(data, _RECIPE_KEYS, str(path))
    files = data.get("operators", [])
    needed = [path.parent / str(file) for file in (files if isinstance(files, list) else [files])]
    trusted = set(map(os.path.realpath, loaded.operators))
    if missing := [str(file) for file in needed if os.path.realpath(file) not in trusted]:
        flags = " ".join(f"--operators {shlex.quote(file)}" for file in missing)
        raise UsageError(
            f"{path} runs Python code, of {', '.join(missing)}: nothing was run; if you trust it, add {flags}"
        )
    outputs = data.get("outputs")
    if not isinstance(outputs, Mapping) or not outputs:
        raise PipelineError(f"{path}: outputs is a mapping of names to pipelines")
    made = tuple(_from_entry(str(name), entry) for name, entry in outputs.items())
    chosen = {key: data.get(key, values[0]) for key, values in _CHOICES.items()}
    for key, value in chosen.items():
        if value not in _CHOICES[key]:
            raise PipelineError(f"{path}: {key} = {value!r}: one of {', '.join(_CHOICES[key])}")
    return replace(loaded, outputs=made, **chosen)


def _from_entry(name: str, entry: Any) -> Output:
    given = entry if isinstance(entry, Mapping) else {"pipeline": entry}
    _only(given, _OUTPUT_KEYS, f"output {name}")
    pipeline = given.get("pipeline")
    if not pipeline or not isinstance(pipeline, (str, list)):
        raise PipelineError(f"output {name}: pipeline is a text or a list of steps")
    quality = given.get("quality")
    if quality is not None and not (isinstance(quality, int) and 1 <= quality <= 100):
        raise PipelineError(f"output {name}: quality = {quality!r}: a whole number from 1 to 100")
    format = given.get("format")
    return Output(
        Pipeline(pipeline).steps,
        folder=_folder(str(given.get("folder", name))),
        format=parse_format(str(format)) if format is not None else None,
        quality=quality,
    )


def _only(given: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = [str(key) for key in given if key not in known]
    if unknown:
        raise PipelineError(
            f"{where}: there is no {', '.join(unknown)}; there are: {', '.join(sorted(known))}"
        )


def _folder(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise PipelineError(f"an output's folder lies below the sink, not at {name!r}")
    return "/".join(parts)


def with_operators(recipe: Recipe, files: Sequence[str]) -> Recipe:
    """The recipe with files of operators beside it; they are loaded at once.

    Raises:
        UsageError: a file cannot be loaded, with its reason.
    """
    paths = tuple(os.path.abspath(file) for file in files)
    operators.load_files(paths)
    return replace(recipe, operators=(*recipe.operators, *paths))
