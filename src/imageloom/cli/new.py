"""`imageloom new`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from imageloom.cli.text import say

_OPERATOR = '''"""Operators of my own: imageloom run '{name} 20' photos/ out/ --operators {file}"""

from typing import Annotated

from msgspec import Meta

from imageloom import Pixels, operator


@operator("point", dtypes=("uint8",))  # each output pixel depends only on the same input pixel
def {name}(image: Pixels, *, by: Annotated[int, Meta(ge=-255, le=255)] = 20) -> Pixels:
    """Add a number to all values of an image of 8 bits."""
    # image is gray (height, width) or RGB (height, width, 3). Return a new array: image must not be changed.
    return (image.astype(int) + by).clip(0, 255).astype(image.dtype)


# A filter that looks at neighbours is "local", and halo says how many pixels away it looks:
#
#     @operator("local", halo=lambda radius: radius)
#     def smear(image: Pixels, *, radius: int = 4) -> Pixels:
#         """Average each pixel with its neighbours on the left and on the right."""
#         return cv2.blur(image, (2 * radius + 1, 1))
#
# A function that looks at the whole image is "global". `imageloom ops --operators {file}` lists this file.
'''

_RECIPE = """# yaml-language-server: $schema={schema}
# Several outputs of each image, which is decoded once: imageloom run {file} photos/ out/
decode: safe            # or fast, exact: how far a JPEG may be shrunk while it is decoded
metadata: keep          # or strict, strip: EXIF, XMP and the like
outputs:
  small:                # its outputs go into the folder small/
    pipeline: resize 512x512 fit=inside | sharpen
    format: jpeg        # without it: the format of the input
    quality: 80
  gray: resize 50% | grayscale
# `imageloom ops` lists the operators, `imageloom ops resize` explains one.
"""


@click.group("new", short_help="Write a starting point: an operator of your own, or a recipe.")
def command() -> None:
    """Write a commented file to start from. It runs as it is, and no existing file is overwritten.

    \b
    imageloom new operator lighten
    imageloom new recipe web.yaml
    imageloom new schema recipe.schema.json
    """


@command.command("operator", short_help="Write a Python file with an operator.")
@click.argument("name", metavar="NAME|FILE")
def operator(name: str) -> None:
    """Write a Python file with one operator. NAME.py is written if NAME has no suffix.

    \b
    imageloom new operator lighten
    imageloom run 'lighten 20' photos/ out/ --operators lighten.py
    """
    from imageloom import operators
    from imageloom.errors import UsageError

    path = Path(name if name.endswith(".py") else f"{name}.py")
    called = path.stem.replace("-", "_")
    if not called.isidentifier() or not called.isascii():
        raise UsageError(
            f"{name}: {path.stem!r} cannot be a function's name in Python; for example: lighten.py"
        )
    if called in (one.name for one in operators.operators()):
        raise UsageError(f"{name}: imageloom has an operator {called!r} already; give another name")
    _write(path, _OPERATOR.format(name=called, file=path))
    say(f"try it: imageloom run '{called} 20' photos/ out/ --operators {path}")


@command.command("recipe", short_help="Write a YAML file with a recipe.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def recipe(file: Path) -> None:
    """Write a recipe with two outputs to FILE, which ends in .yaml, and a schema for editors beside it.

    \b
    imageloom new recipe web.yaml
    imageloom run web.yaml photos/ out/
    """
    from imageloom.errors import UsageError

    if file.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{file}: a recipe's name ends in .yaml; for example: {file.stem or 'web'}.yaml")
    schema = file.with_name("recipe.schema.json")
    _write(file, _RECIPE.format(schema=f"./{schema.name}", file=file))
    if not schema.exists():
        _write(schema, _schema())
    say(f"try it: imageloom run {file} photos/ out/")


@command.command("schema", short_help="Write the JSON Schema of recipes, for editors.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True))
def schema(file: Path) -> None:
    """Write the JSON Schema of recipes to FILE, or to stdout if FILE is -.

    Editors with the YAML language server use it, without a network, if the first line of a recipe names it:

    \b
    # yaml-language-server: $schema=./recipe.schema.json
    """
    if str(file) == "-":
        say(*_schema().splitlines())
    else:
        _write(file, _schema())


def _schema() -> str:
    import json

    from imageloom.recipes.schema import recipe_schema

    return json.dumps(recipe_schema(), indent=1) + "\n"


def _write(path: Path, text: str) -> None:
    """Write a new file.

    Raises:
        UsageError: it exists.
        StorageError: it cannot be written.
    """
    from imageloom.errors import StorageError, UsageError

    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} exists already: nothing was written; give another name") from None
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from None
    say(f"wrote {os.fspath(path)}")
