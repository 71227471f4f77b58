"""SVG, drawn with resvg (resvg-py) in a process of its own. It reads no other files, and nothing from the network.

An SVG is drawn at 96 pixels per inch unless another density is asked for. Text is drawn with the machine's fonts.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from imageloom.codecs import pillow
from imageloom.codecs.bits import MOST_AT_ONCE, Data, MoreNeeded
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.libraries import installed
from imageloom.codecs.metadata import NO_METADATA, Metadata, Text
from imageloom.codecs.rendering import render
from imageloom.errors import CorruptImage, LimitExceeded, UnsupportedImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing

_DENSITY = 96
_MOST_DEPTH = 256
"""Maximum depth of nested elements."""
_MOST_ELEMENTS = 200_000
_MOST_SIDE = 100_000
_UNITS = {"": 1.0, "px": 1.0, "in": 96.0, "cm": 96 / 2.54, "mm": 9.6 / 2.54, "pt": 4 / 3, "pc": 16.0}
_LENGTH = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-z]*|%)\s*", re.IGNORECASE)
_ENCODING = re.compile(rb"\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w-]{1,40})[\"']")

_TEXTS = {"title": "Title", "desc": "Description"}
_MOVING = frozenset(("animate", "animateColor", "animateMotion", "animateTransform", "set"))


class _Drawing(NamedTuple):
    """What is known of a document."""

    width: float
    height: float
    text: bytes
    has_text: bool


class Svg:
    format: Format = "svg"
    quality = 0
    encoder_bytes = 0
    written: Format = "png"
    carries: tuple[Thing, ...] = ()
    also_reads: tuple[Thing, ...] = ("text",)
    always_drops: tuple[Thing, ...] = ("animation", "private metadata")

    def header(self, head: Data) -> Header:
        return self.page_header(head, 0, 0)

    def page_header(self, head: Data, page: int, density: int) -> Header:
        """The header of the drawing.

        Args:
            density: pixels per inch; 0 for 96, where a unit of the drawing is a pixel.
        """
        drawing = _drawing(head)
        scale = (density or _DENSITY) / _DENSITY
        width, height = (max(1, round(side * scale)) for side in (drawing.width, drawing.height))
        if max(width, height) > _MOST_SIDE:
            raise LimitExceeded(f"the SVG is drawn with {width}x{height} pixels (--density)")
        return Header("svg", Frame(width, height, 4), density=density)

    def cannot_hold(self, frame: Frame) -> str | None:
        return "SVG can be read but not written: choose another --format, such as png"

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        installed("resvg_py", "SVG", "svg")
        drawing, frame = _drawing(data), header.frame
        fonts = "fonts" if drawing.has_text else ""
        zoom = (header.density or _DENSITY) / _DENSITY
        png = render("draw_svg", drawing.text, repr(zoom), fonts, "SVG", frame.pixels)
        image = pillow.opened(png, "Png")
        found: Pixels = np.asarray(image.convert("RGBA"))
        if max(abs(found.shape[0] - frame.height), abs(found.shape[1] - frame.width)) > 1:
            raise CorruptImage(f"the SVG is drawn with {found.shape[1]}x{found.shape[0]} pixels, not {frame}")
        pixels: Pixels = np.zeros((frame.height, frame.width, 4), np.uint8)
        inside = found[: frame.height, : frame.width]
        pixels[: inside.shape[0], : inside.shape[1]] = inside
        return pixels

    def metadata(self, data: bytes) -> Metadata:
        """The title and the description of the drawing."""
        root, _ = _checked(data[: len(data)])
        texts, found = [], set[Thing]()
        for element in root:
            name = element.tag.rpartition("}")[2]
            words = " ".join("".join(element.itertext()).split()) if name in _TEXTS else ""
            if words:
                texts.append(Text(_TEXTS[name], words))
            elif name == "metadata":
                found.add("private metadata")
        if any(element.tag.rpartition("}")[2] in _MOVING for element in root.iter()):
            found.add("animation")
        return Metadata(texts=tuple(texts), found=tuple(sorted(found)))

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        raise UnsupportedImage("SVG can be read but not written: choose another --format, such as png")


def _drawing(data: Data) -> _Drawing:
    """Check a document, and find its size.

    Raises:
        MoreNeeded: the document is not complete.
        UnsupportedImage: it refers to other files.
        LimitExceeded: it is too large, or has too many elements.
    """
    if len(data) > MOST_AT_ONCE:
        raise LimitExceeded(f"the SVG takes {len(data):,} bytes, over the limit of {MOST_AT_ONCE:,}")
    text = bytes(data[: len(data)])
    root, has_text = _checked(text)
    if root.tag.rpartition("}")[2] != "svg":
        raise UnsupportedImage("the XML document is not an SVG")
    box = [float(part) for part in re.split(r"[\s,]+", root.get("viewBox", "").strip()) if part]
    boxed = (box[2], box[3]) if len(box) == 4 else (100.0, 100.0)
    width, height = _length(root.get("width"), boxed[0]), _length(root.get("height"), boxed[1])
    if root.get("width") is None and root.get("height") is not None:
        width = height * boxed[0] / boxed[1]
    elif root.get("height") is None and root.get("width") is not None:
        height = width * boxed[1] / boxed[0]
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise CorruptImage(f"the SVG has a size of {width}x{height}")
    if (encoding := _ENCODING.match(text)) and encoding[1].lower() != b"utf-8":
        text = text.decode(encoding[1].decode(), "replace").encode()
    return _Drawing(width, height, text.removeprefix(b"\xef\xbb\xbf"), has_text)


def _checked(text: bytes) -> tuple[ElementTree.Element, bool]:
    """The root element of a document without links to other files, and whether it has text."""
    parser: Any = ElementTree.XMLPullParser(["start", "end"])
    root: ElementTree.Element | None = None
    depth, count, has_text = 0, 0, False
    try:
        for at in range(0, len(text), 1 << 16):
            parser.feed(text[at : at + (1 << 16)])
            for event, element in parser.read_events():
                if event == "end":
                    depth -= 1
                    continue
                root = element if root is None else root
                depth, count = depth + 1, count + 1
                if depth > _MOST_DEPTH or count > _MOST_ELEMENTS:
                    raise LimitExceeded(
                        f"the SVG has more than {_MOST_ELEMENTS:,} elements, or {_MOST_DEPTH} inside each other"
                    )
                has_text = has_text or element.tag.endswith("}text")
                _check_links(element)
        parser.close()
    except ElementTree.ParseError as error:
        if "no element found" in str(error) or "unclosed" in str(error):
            raise MoreNeeded from None
        raise CorruptImage(f"the SVG is not valid XML: {error}") from None
    if root is None:
        raise MoreNeeded
    return root, has_text


def _check_links(element: ElementTree.Element) -> None:
    for name, value in element.attrib.items():
        if name.rpartition("}")[2] != "href" or element.tag.rpartition("}")[2] in ("a", "script"):
            continue
        link = value.strip().lower()
        if link.startswith("data:image/svg"):
            raise UnsupportedImage("SVG with an SVG inside is not supported")
        if link and not link.startswith(("#", "data:")):
            raise UnsupportedImage(f"the SVG refers to another file: {value.strip()[:100]}")


def _length(text: str | None, whole: float) -> float:
    """A length in pixels.

    Args:
        whole: the length that percentages are of.
    """
    found = _LENGTH.fullmatch(text or "100%")
    if found is None:
        raise CorruptImage(f"the SVG has a length of {text!r}")
    number, unit = float(found[1]), found[2].lower()
    if unit == "%":
        return number / 100 * whole
    if unit not in _UNITS:
        raise UnsupportedImage(f"SVG with a size in {unit} is not supported")
    return number * _UNITS[unit]
