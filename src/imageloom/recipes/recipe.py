"""Recipes: one or more outputs per image, from text or YAML. Each image is decoded once for all outputs.

A recipe in YAML:

    decode: safe                  # or fast, exact
    damage: warn                  # or refuse, salvage
    colors: keep                  # or srgb
    gain_map: keep                # or drop
    metadata: keep                # or strict, strip
    operators: [my_ops.py]        # Python files; the user must also give them with --operators
    outputs:
      gray: grayscale
      edges:
        pipeline: grayscale | canny 100 200
        format: png
        quality: 90
        subsampling: keep         # or 444, 422, 420
        folder: lines             # default: the output's name
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from imageloom import codecs, operators
from imageloom.errors import PipelineError, UsageError
from imageloom.model import Format, Output, Recipe
from imageloom.recipes.pipeline import Pipeline, read_yaml

_RECIPE_KEYS = {"decode", "damage", "colors", "gain_map", "metadata", "operators", "outputs"}
_OUTPUT_KEYS = {"pipeline", "format", "quality", "subsampling", "folder"}
CHOICES = {
    "decode": ("safe", "fast", "exact"),
    "damage": ("warn", "refuse", "salvage"),
    "colors": ("keep", "srgb"),
    "gain_map": ("keep", "drop"),
    "metadata": ("keep", "strict", "strip"),
}
_NO_OUTPUTS = Recipe(())
SUBSAMPLINGS = ("keep", "444", "422", "420")


def parse_format(name: str) -> Format:
    """The format with this name or file suffix.

    Raises:
        PipelineError: there is no such format (the message lists the known formats), or it can only be read.
        UsageError: its plug-in cannot be loaded.
        MissingExtra: its library is not installed.
    """
    found = codecs.format_of(f".{name.lower()}")
    if found is None and name.lower() in codecs.CODECS:
        found = codecs.get(name.lower()).format
    if found is None:
        known = ", ".join(codecs.CODECS.names())
        raise PipelineError(f"there is no format {name!r}; there are: {known}")
    if codecs.get(found).written != found:
        raise PipelineError(f"{found} files can be read but not written: choose another format, such as png")
    return found


def refuse_ignored(recipe: Recipe) -> None:
    """Refuse a quality and a chroma subsampling that no output has a use for.

    Raises:
        UsageError: the formats of all outputs are given, and none of them has it.
    """
    formats = [output.format for output in recipe.outputs if output.format]
    if len(formats) < len(recipe.outputs):
        return
    found = {format: codecs.get(format) for format in formats}
    named = ", ".join(found)
    if any(output.quality for output in recipe.outputs) and not any(one.quality for one in found.values()):
        raise UsageError(f"quality has no effect: outputs are {named}, which is lossless; leave it out")
    if any(output.subsampling for output in recipe.outputs) and not any(
        getattr(one, "subsamples", False) for one in found.values()
    ):
        raise UsageError(f"subsampling has no effect on {named}: it is for jpeg and heif; leave it out")


def parse_output(text: str) -> Output:
    """Parse `NAME=PIPELINE`: an output in the folder NAME.

    Raises:
        PipelineError: the name is missing, or the pipeline is invalid.
    """
    name, equals, pipeline = text.partition("=")
    if not equals or not name.strip() or " " in name.strip():
        raise PipelineError(f"an output must be NAME=PIPELINE, such as gray='grayscale', not {text!r}")
    return Output(Pipeline.parse(pipeline).steps, folder=_folder(name.strip()))


def read_recipe(text: str | os.PathLike[str], files: Sequence[str] = ()) -> Recipe:
    """The recipe from a text: a pipeline, or the name of a YAML file with a pipeline or a recipe.

    Args:
        files: files of operators that the user trusts. They are loaded. A recipe cannot load other files.

    Raises:
        PipelineError: the text or the file is invalid; the message names the output.
        UsageError: a file of operators cannot be loaded, or the recipe needs a file that is not in `files`.
    """
    loaded = with_operators(Recipe(()), files)
    if not isinstance(text, (str, os.PathLike)):
        raise UsageError(f"text = {text!r}: it must be a pipeline, or the path of a YAML file")
    path = Path(text)
    if isinstance(text, str) and path.suffix not in (".yaml", ".yml"):
        return replace(loaded, outputs=(Output(Pipeline.parse(text).steps),))
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise PipelineError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from None
    return from_yaml(content, path, loaded)


def from_yaml(content: bytes, path: Path, loaded: Recipe = _NO_OUTPUTS) -> Recipe:
    """The recipe from the contents of a YAML file.

    Args:
        path: of the file, for messages and for the operators that it names.
        loaded: a recipe with the loaded files of operators.

    Raises:
        PipelineError, UsageError: see `read_recipe`.
    """
    return from_data(read_yaml(content, str(path)), path, loaded)


def from_data(data: object, path: Path, loaded: Recipe = _NO_OUTPUTS) -> Recipe:
    """The recipe from data as in a YAML file: a list of steps, or a mapping with outputs.

    Args:
        path, loaded: see `from_yaml`.

    Raises:
        PipelineError, UsageError: see `read_recipe`.
    """
    if isinstance(data, Mapping):
        return _from_mapping(data, path, loaded)
    if isinstance(data, list) and data:
        try:
            return replace(loaded, outputs=(Output(Pipeline(data).steps),))
        except PipelineError as error:
            raise PipelineError(f"{path}: {error}") from None
    raise PipelineError(
        f"{path} must contain a list of steps, or a mapping with 'outputs'; for example: outputs: "
        "{small: resize 50%}"
    )


def _from_mapping(data: Mapping[str, Any], path: Path, loaded: Recipe) -> Recipe:
    _only(data, _RECIPE_KEYS, str(path))
    files = data.get("operators", [])
    needed = [path.parent / str(file) for file in (files if isinstance(files, list) else [files])]
    trusted = set(map(os.path.realpath, loaded.operators))
    if missing := [str(file) for file in needed if os.path.realpath(file) not in trusted]:
        flags = " ".join(f"--operators {shlex.quote(file)}" for file in missing)
        raise UsageError(
            f"the recipe {path} needs Python code from {', '.join(missing)}, which was not run: if you trust this "
            f"code, add {flags}"
        )
    outputs = data.get("outputs")
    if not isinstance(outputs, Mapping) or not outputs:
        raise PipelineError(
            f"{path}: 'outputs' must give each output a name and a pipeline; for example: outputs: "
            "{small: resize 50%}"
        )
    try:
        made = tuple(_from_entry(str(name), entry) for name, entry in outputs.items())
    except PipelineError as error:
        raise PipelineError(f"{path}: {error}") from None
    chosen = {key: data.get(key, values[0]) for key, values in CHOICES.items()}
    for key, value in chosen.items():
        if value not in CHOICES[key]:
            raise PipelineError(f"{path}: {key} = {value!r}: it must be one of {', '.join(CHOICES[key])}")
    return replace(loaded, outputs=made, **chosen)


def _from_entry(name: str, entry: Any) -> Output:
    given = entry if isinstance(entry, Mapping) else {"pipeline": entry}
    _only(given, _OUTPUT_KEYS, f"output {name}")
    pipeline = given.get("pipeline")
    if not pipeline or not isinstance(pipeline, (str, list)):
        raise PipelineError(
            f"output {name}: the pipeline must be a text or a list of steps; for example: {name}: resize 50%"
        )
    quality = given.get("quality")
    if quality is not None and not (isinstance(quality, int) and 1 <= quality <= 100):
        raise PipelineError(f"output {name}: quality = {quality!r}: it must be a whole number from 1 to 100")
    format = given.get("format")
    subsampling = given.get("subsampling")
    if subsampling is not None and str(subsampling) not in SUBSAMPLINGS:
        choices = ", ".join(SUBSAMPLINGS)
        raise PipelineError(f"output {name}: subsampling = {subsampling!r}: it must be one of {choices}")
    return Output(
        Pipeline(pipeline).steps,
        folder=_folder(str(given.get("folder", name))),
        format=parse_format(str(format)) if format is not None else None,
        quality=quality,
        subsampling=str(subsampling) if subsampling is not None else None,  # type: ignore[arg-type]
    )


def _only(given: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = [str(key) for key in given if key not in known]
    if unknown:
        nearest = get_close_matches(unknown[0], sorted(known), 1)
        hint = f" (did you mean {nearest[0]}?)" if nearest else ""
        raise PipelineError(
            f"{where}: unknown key {', '.join(unknown)}{hint}; the keys are: {', '.join(sorted(known))}"
        )


def _folder(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise PipelineError(f"the folder of an output must be inside the sink, not {name!r}")
    return "/".join(parts)


def with_operators(recipe: Recipe, files: Sequence[str]) -> Recipe:
    """Load files of operators and add them to a recipe.

    Raises:
        UsageError: a file cannot be loaded.
    """
    paths = tuple(os.path.abspath(file) for file in files)
    operators.load_files(paths)
    return replace(recipe, operators=(*recipe.operators, *paths))
