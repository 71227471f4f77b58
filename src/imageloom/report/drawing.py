"""A drawing made of simple shapes, and its conversion to SVG (text) and to PNG (with Pillow).

Colours are names of roles. A page defines their values in its style sheet, for a light and a dark theme.
"""

from __future__ import annotations

import io
from typing import Literal

from imageloom.model import Plain
from imageloom.system.printable import shows

PALETTE = {
    "paper": "#ffffff",
    "ink": "#1c2430",
    "muted": "#586272",
    "grid": "#e3e7ed",
    "accent": "#2f6fdb",
    "soft": "#c9daf8",
    "bad": "#c9302c",
    "read": "#3f7fd0",
    "decode": "#128a78",
    "filter": "#8a5cd0",
    "encode": "#c47512",
    "write": "#c2477f",
    "publish": "#6b7684",
    "lost": "#c9302c",
}
"""The colours of the light theme, which files use too."""
DARK = {
    "paper": "#14181f",
    "ink": "#e8ecf2",
    "muted": "#a3adbb",
    "grid": "#2b323d",
    "accent": "#6ea3f7",
    "soft": "#243a5e",
    "bad": "#f0716b",
    "read": "#5f9cec",
    "decode": "#33b8a2",
    "filter": "#ac85ec",
    "encode": "#e39a3d",
    "write": "#e2719f",
    "publish": "#94a0b0",
    "lost": "#f0716b",
}

Anchor = Literal["start", "middle", "end"]
Box = tuple[float, float, float, float]
"""x, y, width, height."""


class Bars(Plain, frozen=True):
    """Filled rectangles of one colour."""

    boxes: tuple[Box, ...]
    fill: str
    opacity: float = 1.0


class Line(Plain, frozen=True):
    points: tuple[tuple[float, float], ...]
    stroke: str
    width: float = 1.0


class Area(Plain, frozen=True):
    """A filled polygon."""

    points: tuple[tuple[float, float], ...]
    fill: str
    opacity: float = 1.0


class Dot(Plain, frozen=True):
    x: float
    y: float
    radius: float
    fill: str


class Text(Plain, frozen=True):
    """A line of text; y is its base line."""

    x: float
    y: float
    text: str
    fill: str = "muted"
    anchor: Anchor = "start"
    size: float = 12.0


Shape = Bars | Line | Area | Dot | Text


class Drawing(Plain, frozen=True):
    """Shapes one above the other."""

    title: str
    summary: str
    """The drawing in words, for screen readers."""
    width: float
    height: float
    shapes: tuple[Shape, ...]


def to_svg(drawing: Drawing, *, alone: bool = True) -> str:
    """The drawing as SVG, with its own colours if `alone`, otherwise for a page that defines them."""
    label = f"{drawing.title}: {drawing.summary}"
    size = f'viewBox="0 0 {_n(drawing.width)} {_n(drawing.height)}"'
    paper = ""
    if alone:
        size += f' width="{_n(drawing.width)}" height="{_n(drawing.height)}"'
        paper = f"<style>{_style()}</style>" + _svg(Bars(((0, 0, drawing.width, drawing.height),), "paper"))
    body = "".join(map(_svg, drawing.shapes))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(label)}" '
        f'font-family="system-ui, sans-serif">{paper}{body}</svg>'
    )


def escape(text: str) -> str:
    """Escape text for HTML and XML, attributes included. Characters that are not allowed there become boxes."""
    safe = "".join(c if shows(c) or c in "\n\t" else "\ufffd" for c in text)
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        safe = safe.replace(character, entity)
    return safe


def css() -> str:
    """The CSS rules that map a role's name to a fill or a stroke, by a variable of the style sheet."""
    return "".join(f".f-{role}{{fill:var(--{role})}}.s-{role}{{stroke:var(--{role})}}" for role in PALETTE)


def variables(palette: dict[str, str]) -> str:
    return "".join(f"--{role}:{colour};" for role, colour in palette.items())


def _style() -> str:
    dark = f"@media (prefers-color-scheme: dark){{svg{{{variables(DARK)}}}}}"
    return f"svg{{{variables(PALETTE)}}}{dark}{css()}"


def _svg(shape: Shape) -> str:
    if isinstance(shape, Text):
        return (
            f'<text x="{_n(shape.x)}" y="{_n(shape.y)}" class="f-{shape.fill}" font-size="{_n(shape.size)}" '
            f'text-anchor="{shape.anchor}">{escape(shape.text)}</text>'
        )
    if isinstance(shape, Dot):
        return (
            f'<circle cx="{_n(shape.x)}" cy="{_n(shape.y)}" r="{_n(shape.radius)}" class="f-{shape.fill}"/>'
        )
    if isinstance(shape, Bars):
        path = "".join(f"M{_n(x)} {_n(y)}h{_n(w)}v{_n(h)}h{_n(-w)}z" for x, y, w, h in shape.boxes)
        return f'<path d="{path}" class="f-{shape.fill}"{_opacity(shape.opacity)}/>'
    points = " ".join(f"{_n(x)},{_n(y)}" for x, y in shape.points)
    if isinstance(shape, Area):
        return f'<polygon points="{points}" class="f-{shape.fill}"{_opacity(shape.opacity)}/>'
    return (
        f'<polyline points="{points}" class="s-{shape.stroke}" fill="none" '
        f'stroke-width="{_n(shape.width)}" stroke-linejoin="round"/>'
    )


def _opacity(value: float) -> str:
    return "" if value == 1 else f' fill-opacity="{_n(value)}"'


def _n(value: float) -> str:
    """A coordinate as text, with the precision that is visible."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def to_png(drawing: Drawing, scale: int = 2) -> bytes:
    """The drawing as PNG in the light theme. Lines are smoothed by drawing at twice the size."""
    from PIL import Image, ImageDraw, ImageFont

    fine = 2 * scale
    size = (round(drawing.width * fine), round(drawing.height * fine))
    image = Image.new("RGB", size, PALETTE["paper"])
    draw = ImageDraw.Draw(image)

    def colour(role: str, opacity: float = 1.0) -> tuple[int, ...]:
        ground, fill = (bytes.fromhex(PALETTE[name][1:]) for name in ("paper", role))
        return tuple(round(f * opacity + g * (1 - opacity)) for g, f in zip(ground, fill, strict=True))

    def scaled(points: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
        return [(x * fine, y * fine) for x, y in points]

    for shape in drawing.shapes:
        if isinstance(shape, Bars):
            for x, y, w, h in shape.boxes:
                corners = (x * fine, y * fine, max((x + w) * fine - 1, x * fine), (y + h) * fine - 1)
                if w > 0 and h > 0 and corners[3] >= corners[1]:
                    draw.rectangle(corners, fill=colour(shape.fill, shape.opacity))
        elif isinstance(shape, Area):
            draw.polygon(scaled(shape.points), fill=colour(shape.fill, shape.opacity))
        elif isinstance(shape, Line):
            width = max(1, round(shape.width * fine))
            draw.line(scaled(shape.points), fill=colour(shape.stroke), width=width, joint="curve")
        elif isinstance(shape, Dot):
            draw.circle((shape.x * fine, shape.y * fine), shape.radius * fine, fill=colour(shape.fill))
        else:
            font = ImageFont.load_default(shape.size * fine)
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
            at = (shape.x * fine, shape.y * fine)
            text = shape.text.replace("\u00b5", "u")  # Pillow's font lacks these characters
            draw.text(at, text, fill=colour(shape.fill), font=font, anchor=anchor)
    small = image.resize((size[0] // 2, size[1] // 2), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    return out.getvalue()
