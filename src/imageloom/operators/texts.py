"""Texts drawn over an image: shaped by HarfBuzz and ordered by FriBidi, which Pillow's Raqm has in its wheels."""

from __future__ import annotations

import io
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from imageloom.errors import OperatorRefused
from imageloom.model import Box, Frame, Pixels
from imageloom.operators.geometry import Color
from imageloom.operators.named import Digest, File, loaded
from imageloom.operators.overlays import Gravity, Layer, Margin, laid_over, layer_of, same_box
from imageloom.operators.registry import operator
from imageloom.operators.templates import TEMPLATE

FONT = Path(__file__).parent / "fonts" / "DejaVuSans.ttf"
MOST_PIXELS = 1 << 24
"""Maximum number of pixels of a drawn text."""
_PERCENT = r"^(\d{1,3}(?:\.\d{1,6})?)%$"
Size = (
    Annotated[int, Meta(ge=1, le=1000)]
    | Annotated[str, Meta(pattern=_PERCENT, description="PERCENT% of the image's shorter side")]
)
Words = Annotated[
    str, Meta(min_length=1, max_length=1000, description="a text of 1 to 1000 characters"), TEMPLATE
]


def _pixels_of(size: int | str, frame: Frame) -> int:
    """The size of the letters in pixels."""
    if isinstance(size, int):
        return size
    found = re.match(_PERCENT, size)
    assert found is not None, size
    return min(max(1, round(min(frame.width, frame.height) * float(found[1]) / 100)), 1000)


def _cover(text: str, size: int, font: bytes) -> NDArray[np.float32]:
    """How much a text covers each pixel of the smallest box around it, from 0 to 1.

    Raises:
        OperatorRefused: the font cannot be read, or the text would be too large.
    """
    from PIL import Image, ImageDraw, ImageFont, features  # few recipes need them

    if not features.check("raqm"):
        raise OperatorRefused(
            "text needs Pillow with Raqm, as in its wheels: this Pillow was built without it"
        )
    try:
        letters = ImageFont.truetype(io.BytesIO(font), size, layout_engine=ImageFont.Layout.RAQM)
        canvas = ImageDraw.Draw(Image.new("L", (1, 1)))
        left, top, right, bottom = map(int, canvas.multiline_textbbox((0, 0), text, letters))
    except (OSError, ValueError, MemoryError) as error:
        raise OperatorRefused(f"the font cannot be used: {error}") from None
    width, height = right - left, bottom - top
    if width * height > MOST_PIXELS:
        raise OperatorRefused(
            f"the text would cover {width:,}x{height:,} pixels at size={size}: it is too large"
        )
    drawn = Image.new("L", (max(1, width), max(1, height)))
    ImageDraw.Draw(drawn).multiline_text((-left, -top), text, fill=255, font=letters)
    return np.asarray(drawn, np.float32) / np.float32(255)


@lru_cache(maxsize=1)
def _own_font() -> bytes:
    return FONT.read_bytes()


@lru_cache(maxsize=2)
def _layer(text: str, size: int, font: bytes, color: str, is_gray: bool) -> Layer:
    """The text in its colour. It is kept for the other tiles of an image, and for the next images."""
    red, green, blue, *alpha = bytes.fromhex(color[1:])
    pixel = np.array([red, green, blue, 255], np.float32) / np.float32(255)
    return layer_of(_cover(text, size, font)[..., None] * pixel, is_gray, (alpha or [255])[0] / 255)


def _drawn(
    image: Pixels,
    *,
    box: Box,
    frame: Frame,
    text: str,
    size: int | str,
    color: str,
    gravity: Gravity,
    margin: int,
    font: str | None,
    digest: str,
) -> Pixels:
    content = loaded(font, digest, bytes) if font is not None else _own_font()
    is_gray = image.ndim == 2 or image.shape[2] == 2
    layer = _layer(text.replace("\\n", "\n"), _pixels_of(size, frame), content, color, is_gray)
    return laid_over(image, box, frame, layer, gravity, margin)


def _without_font(font: str | None, digest: str, **_: object) -> str | None:
    return "digest is that of a font, and no font is named" if digest and font is None else None


@operator(
    "geometric",  # a pixel depends on its place
    source=same_box,
    part=_drawn,
    check=_without_font,
    extra="refuse",
    file="font",
    examples=(
        'text "a caption"',
        'text "© 2026 Jane Doe" size=24 color=#ffffffc0 gravity=southeast margin=16',
        "text 'שלום مرحبا' size=5% color=#ffd000 gravity=north",
    ),
)
def text(
    image: Pixels,
    *,
    text: Words,
    size: Size = 24,
    color: Color = "#ffffff",
    gravity: Gravity = "south",
    margin: Margin = 16,
    font: File | None = None,
    digest: Digest = "",
) -> Pixels:
    """Draw a text over the image.

    size is that of the letters (the em) in pixels, or PERCENT% of the image's shorter side; color is #RRGGBB or
    #RRGGBBAA. gravity is the side or corner at which the text lies, margin its distance from the edges in pixels.
    \\n begins a new line, and fields such as {stem} are filled in. Text from right to left and scripts with joined
    letters are set as they are written.

    font is the path of a TrueType or OpenType font. Without it, DejaVu Sans is used: Latin, Greek, Cyrillic,
    Armenian, Georgian, Hebrew, Arabic, and symbols. A font draws an empty box for a character that it lacks.
    """
    box = Box(0, 0, image.shape[1], image.shape[0])
    whole = Frame(box.width, box.height, 1)
    return _drawn(
        image,
        box=box,
        frame=whole,
        text=text,
        size=size,
        color=color,
        gravity=gravity,
        margin=margin,
        font=font,
        digest=digest,
    )
