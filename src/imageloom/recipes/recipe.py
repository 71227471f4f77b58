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
        when: width > 2000        # see `recipes.when`
        name: '{stem}-{width}w.{ext}'  # default: --name
        max_bytes: 200k
        lossless: true
        progressive: true
        effort: 7                 # 1 to 9
        only_if_smaller: true
        widths: [320, 640]        # an output for each width
        formats: [avif, jpeg]     # an output for each format, instead of format
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from imageloom import operators
from imageloom.errors import PipelineError, UsageError
from imageloom.model import Output, Recipe
from imageloom.recipes import entries
from imageloom.recipes.files import placed
from imageloom.recipes.pipeline import Pipeline, read_yaml, split_condition
from imageloom.recipes.responsive import expanded

_RECIPE_KEYS = {"decode", "damage", "colors", "gain_map", "metadata", "operators", "outputs"}
_OUTPUT_KEYS = {"pipeline", "folder", *entries.KEYS}
CHOICES = {
    "decode": ("safe", "fast", "exact"),
    "damage": ("warn", "refuse", "salvage"),
    "colors": ("keep", "srgb"),
    "gain_map": ("keep", "drop"),
    "metadata": ("keep", "strict", "strip"),
}
_NO_OUTPUTS = Recipe(())


def parse_output(text: str) -> Output:
    """Parse `NAME=PIPELINE`: an output in the folder NAME.

    Raises:
        PipelineError: the name is missing, or the pipeline is invalid.
    """
    name, equals, pipeline = text.partition("=")
    if not equals or not name.strip() or " " in name.strip():
        raise PipelineError(f"an output must be NAME=PIPELINE, such as gray='grayscale', not {text!r}")
    return replace(output_of(pipeline), folder=_folder(name.strip()))


def output_of(text: str) -> Output:
    """The output of a pipeline as text, which may begin with a condition: `when width > 2000 | resize 50%`.

    Raises:
        PipelineError: the condition or the pipeline is invalid.
    """
    condition, rest = split_condition(text)
    return Output(Pipeline.parse(rest).steps, when=condition)


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
        return placed(replace(loaded, outputs=(output_of(text),)), "")
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise PipelineError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from None
    return placed(from_yaml(content, path, loaded), str(path.parent))


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
        made = tuple(one for name, entry in outputs.items() for one in _from_entry(str(name), entry))
    except PipelineError as error:
        raise PipelineError(f"{path}: {error}") from None
    chosen = {key: data.get(key, values[0]) for key, values in CHOICES.items()}
    for key, value in chosen.items():
        if value not in CHOICES[key]:
            raise PipelineError(f"{path}: {key} = {value!r}: it must be one of {', '.join(CHOICES[key])}")
    return replace(loaded, outputs=made, **chosen)


def _from_entry(name: str, entry: Any) -> tuple[Output, ...]:
    """The output of an entry; several if it has widths or formats."""
    given = entry if isinstance(entry, Mapping) else {"pipeline": entry}
    _only(given, _OUTPUT_KEYS, f"output {name}")
    pipeline = given.get("pipeline")
    if not pipeline or not isinstance(pipeline, (str, list)):
        raise PipelineError(
            f"output {name}: the pipeline must be a text or a list of steps; for example: {name}: resize 50%"
        )
    try:
        condition, rest = split_condition(pipeline) if isinstance(pipeline, str) else ("", pipeline)
        if condition and "when" in given:
            raise PipelineError("when is given twice: in the pipeline, and as a key")
        chosen = entries.read(given)
        widths, formats = chosen.pop("widths", ()), chosen.pop("formats", ())
        made = Output(
            Pipeline(rest).steps,
            folder=_folder(str(given.get("folder", name))),
            **{"when": condition, **chosen},
        )
        return expanded(made, widths, formats)
    except PipelineError as error:
        raise PipelineError(f"output {name}: {error}") from None


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
