"""Shared by all pages: one file that needs no network, with a security policy that allows only its own script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from importlib.resources import files

import msgspec

from imageloom.report.drawing import DARK, PALETTE, Drawing, css, escape, to_svg, variables

WIDE, NARROW = 920.0, 336.0
"""Width of a drawing on a large and on a small screen, in pixels."""


def document(title: str, body: Iterable[str], script: str, data: str = "") -> str:
    """A whole page.

    Args:
        script: JavaScript, which may read `data`.
        data: JSON from the function `json`.
    """
    style = _asset("page.css")
    style = style.replace("/*LIGHT*/", variables(PALETTE)).replace("/*DARK*/", variables(DARK)) + css()
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    carried = f'<script type="application/json" id="data">{data}</script>\n' if data else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style></head>\n"
        f"<body><main>\n{''.join(body)}</main>\n{carried}<script>{script}</script>\n</body></html>\n"
    )


def policy_of(document: str) -> str:
    """The security policy of a page made by `document`, for a server that sends it as a header."""
    return document.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]


def script(*names: str) -> str:
    """The named scripts, and the script that selects the light or the dark theme."""
    return "".join(_asset(name) for name in (*names, "theme.js"))


def _asset(name: str) -> str:
    return files("imageloom.report").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def json(data: object) -> str:
    """JSON that is safe inside a script element: it cannot end the element."""
    return msgspec.json.encode(data).decode().replace("<", "\\u003c").replace("&", "\\u0026")


def section(name: str, title: str, body: str, note: str = "") -> str:
    shown = f'<p class="note">{escape(note)}</p>' if note else ""
    return (
        f'<section id="{name}" aria-labelledby="h-{name}"><h2 id="h-{name}">{escape(title)}</h2>'
        f"{shown}{body}</section>\n"
    )


def brand() -> str:
    """The line at the top of a page, with the button for the theme."""
    return (
        '<div class="brand"><span>imageloom</span><button type="button" id="theme" hidden>Dark</button></div>'
    )


def tiles(shown: Iterable[tuple[str, str, str]]) -> str:
    """Tiles with large figures: value, name, and the CSS class of the value."""
    cells = "".join(
        f'<div><dt>{escape(name)}</dt><dd class="{kind}">{escape(value)}</dd></div>'
        for value, name, kind in shown
    )
    return f'<dl class="tiles" aria-label="Figures">{cells}</dl>\n'


def pairs(shown: Iterable[tuple[str, str]]) -> str:
    """A list of names with their texts."""
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in shown)
    return f'<dl class="facts">{cells}</dl>'


def legend(roles: Sequence[str]) -> str:
    """The legend of the stages' colours, as list items."""
    return "".join(
        f'<li><svg viewBox="0 0 10 10" aria-hidden="true"><rect width="10" height="10" rx="2" class="f-{role}"/>'
        f"</svg>{role}</li>"
        for role in roles
    )


def note(drawing: Drawing) -> str:
    """The summary of a drawing as a sentence."""
    return drawing.summary[:1].upper() + drawing.summary[1:] + "."


def both(wide: Drawing, narrow: Drawing) -> str:
    """A drawing for large and one for small screens; the page shows one of them."""
    return (
        f'<div class="wide">{to_svg(wide, alone=False)}</div>'
        f'<div class="narrow">{to_svg(narrow, alone=False)}</div>'
    )


SLIDE = "Slide to compare: the input on the left, the output on the right."


def compared(key: str, before: str, name: str, after: str, caption: str) -> str:
    """An input and an output on top of each other, with a slider between them. It needs the script samples.js.

    Args:
        before, after: the images as data URIs.
    """
    return (
        f'<figure class="sample"><div class="pair"><img src="{after}" alt="After: {escape(name)}">'
        f'<img class="before" src="{before}" alt="Before: {escape(key)}"><span class="divider"></span></div>'
        '<input type="range" min="0" max="100" value="50" '
        f'aria-label="How much of {escape(key)} is shown before the pipeline">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def samples(figures: Iterable[str]) -> str:
    """Figures made by `compared`, side by side as far as the screen allows."""
    return f'<div class="samples">{"".join(figures)}</div>'


def table(label: str, header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table that scrolls if it is too wide. The first cell of each row is its header."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table class="{kind}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
