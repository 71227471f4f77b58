"""Hooks of MkDocs: pages that are generated from the program, and pages that lie outside of docs/."""

from __future__ import annotations

import inspect
import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from imageloom import Image, operators
from imageloom.bench.samples import draw_photo
from imageloom.cli import GROUPS, cli
from imageloom.operators.registry import Operator, describe_parameter

ROOT = Path(__file__).parent.parent
OUTSIDE = {f"{name}.md": f"{name}.md" for name in ("ARCHITECTURE", "CHANGELOG", "CONTRIBUTING", "SECURITY")}
OUTSIDE["deploy.md"] = "deploy/README.md"
"""Pages of the site that are files outside of docs/, by their name in the site."""

_NESTED = re.compile(
    r'<nav class="md-nav" '
    r'(?:aria-label="[^"]*"|(data-md-level="[1-9]") aria-labelledby="[^"]*" aria-expanded="\w+")>'
)
_SAMPLE = "assets/operators/sample.jpg"
_EXAMPLES = ROOT / "src" / "imageloom" / "testing" / "samples"
"""Files that examples of operators name."""
_LINK = re.compile(r"(!?)\[([^\]\n]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and the pictures of the operators."""
    operators.load_packages()
    known = [one for one in operators.operators() if one.function.__module__.startswith("imageloom.")]
    pages = {name: (ROOT / path).read_text(encoding="utf-8") for name, path in OUTSIDE.items()}
    pages |= {"operators.md": "\n".join(_operators(known)), "commands.md": "\n".join(_commands())}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, _SAMPLE, content=_drawn("")))
    for operator in known:
        files.append(File.generated(config, _picture(operator), content=_drawn(_example(operator))))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site.

    A link to a file that is no page becomes text.
    """
    here = page.file.src_uri
    folder = posixpath.dirname(OUTSIDE.get(here, f"docs/{here}"))
    pages = {path: name for name, path in OUTSIDE.items()}

    def changed(found: re.Match[str]) -> str:
        picture, text, target, anchor = found.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        name = pages.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(name) is not None:
            start = posixpath.dirname(here) or "."
            return f"{picture}[{text}]({posixpath.relpath(name, start)}{anchor or ''})"
        if not (ROOT / path).exists():
            return found[0]
        return text if "`" in text else f"`{path}`"

    return _LINK.sub(changed, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let people who use a keyboard scroll code and tables that are wider than the page."""
    html = html.replace("<pre>", '<pre tabindex="0">').replace("<table>", '<table tabindex="0">')
    return re.sub(r"<th([^>]*)></th>", r"<td\1></td>", html)  # a corner heads nothing


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Name the theme's search for screen readers; its nested lists of links are no landmarks of their own."""
    output = output.replace('role="dialog">', 'role="dialog" aria-label="Search">')
    return _NESTED.sub(r'<nav class="md-nav" role="none" \1>', output)


def _operators(known: list[Operator]) -> Iterator[str]:
    """The page of all operators, in the order of the registry."""
    yield "# Operators\n"
    yield "This page is made from the program: `imageloom ops` prints the same. Each picture was made by imageloom"
    yield "from the sample below, by the first example."
    yield "[Operators of your own](python.md#operators-of-your-own) are functions in a file.\n"
    yield f"![The sample: a drawn landscape]({_SAMPLE})\n"
    yield " · ".join(f"[{one.name}](#{one.name})" for one in known) + "\n"
    for one in known:
        yield f"## {one.name} {{ #{one.name} }}\n"
        yield f"{inspect.getdoc(one.function)}\n"
        yield f"![The sample after {_example(one)}]({_picture(one)})\n"
        yield f"*{one.declared}; takes {', '.join(one.dtypes)}.*\n"
        if one.parameters:
            yield "Parameters, by position or by name:\n"
            yield from (f"- `{describe_parameter(one, parameter)}`" for parameter in one.parameters)
            yield ""
        yield "```text"
        yield from (f"imageloom run '{each}' photos/ out/" for each in one.examples or (one.name,))
        yield "```\n"


def _picture(operator: Operator) -> str:
    return f"assets/operators/{operator.name}.jpg"


def _example(operator: Operator) -> str:
    return operator.examples[0] if operator.examples else operator.name


def _drawn(pipeline: str) -> bytes:
    """The sample after a pipeline, as a JPEG at most 360 pixels wide."""
    steps = filter(None, (pipeline, "resize 360x360 fit=inside"))
    with chdir(_EXAMPLES):
        return Image.from_array(draw_photo(11, 720, 480)).apply(" | ".join(steps)).encode("jpeg", quality=82)


def _commands() -> Iterator[str]:
    """The page of all commands: what --help prints, by group."""
    yield "# Commands\n"
    yield "This page is made from the program: `imageloom COMMAND --help` prints the same.\n"
    os.environ["COLUMNS"] = "100"
    for group, names in GROUPS.items():
        yield f"## {group}\n"
        for name in names:
            command = cli.get_command(click.Context(cli), name)
            assert command is not None
            context = click.Context(command, info_name=f"imageloom {name}", terminal_width=100)
            yield f"### imageloom {name} {{ #{name} }}\n\n```text\n{command.get_help(context)}\n```\n"
