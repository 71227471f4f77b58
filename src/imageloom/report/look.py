"""Before and after: a contact sheet of a few samples, as one PNG or one HTML page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from itertools import islice

import cv2
import msgspec
import numpy as np

from imageloom import codecs, operators
from imageloom.driver.source import Source
from imageloom.errors import ItemError
from imageloom.model import Encoding, Item, Limits, Pixels, Recipe
from imageloom.recipes.pipeline import to_text
from imageloom.recipes.plan import UPRIGHT, check_limits, make_plan
from imageloom.records.faults import blamed_on
from imageloom.report import html
from imageloom.report.drawing import escape
from imageloom.stores import Store

SIDE = 320
"""Length of a sample's longer side, in pixels."""
_MARGIN, _CAPTION = 12, 22
_PAPER, _INK = 250, 60


class Sample(msgspec.Struct, frozen=True):
    """One image before and after a recipe: gray, gray+alpha, RGB or RGBA pixels, uint8."""

    key: str
    before: Pixels
    after: tuple[tuple[str, Pixels], ...]
    """Name and pixels of each output."""


def samples(source: Source, recipe: Recipe, count: int) -> list[Sample]:
    """The first `count` images of a source that can be processed, before and after a recipe.

    Raises:
        ItemError: no image can be processed; it is the error of the first image.
    """
    found: list[Sample] = []
    failure: ItemError | None = None
    for item in islice((entry for entry in source if isinstance(entry, Item)), 4 * count):
        try:
            with blamed_on(item.key):
                found.append(_sample(source.store, item, recipe))
        except ItemError as error:
            failure = failure or error
        if len(found) == count:
            break
    if not found and failure:
        raise failure
    return found


def _sample(store: Store, item: Item, recipe: Recipe) -> Sample:
    data = store.read(item.key, Limits().max_file_size, item)
    header = codecs.header_of(data)
    check_limits(header, Limits(), len(data))
    before = codecs.decode(data, header, luma=False, scale=1)
    extra = header.frame.extra
    for step in UPRIGHT[header.orientation]:
        before = operators.apply(step, before, extra)
    plan = make_plan(header, recipe)
    decoded = codecs.decode(data, header, luma=plan.luma, scale=plan.scale)
    after = []
    for asked, output in zip(recipe.outputs, plan.outputs, strict=True):
        pixels = decoded
        for step, samples in zip(
            output.steps, operators.extra_before(output.steps, plan.decoded), strict=True
        ):
            pixels = operators.apply(step, pixels, samples)
        small = thumbnail(operators.shown(pixels, output.frame.extra))
        after.append((asked.folder or to_text(asked.steps), small))
    return Sample(item.key, thumbnail(operators.shown(before, extra)), tuple(after))


def thumbnail(image: Pixels, side: int = SIDE) -> Pixels:
    """The image as uint8, with a longer side of at most `side` pixels."""
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    elif image.dtype == np.float32:
        image = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image


def to_html(title: str, found: Sequence[Sample]) -> str:
    """An HTML page that contains the images, with a slider between each input and output."""
    figures = [
        html.compared(sample.key, _data(sample.before), name, _data(after), _caption(sample, name))
        for sample in found
        for name, after in sample.after
    ]
    head = (
        f'<header>{html.brand()}<h1>Before and after</h1><p class="pipeline"><code>{escape(title)}</code></p>'
        f'<p class="note">{html.SLIDE}</p></header>\n'
    )
    body = [head, f'<section aria-label="Images">{html.samples(figures)}</section>\n']
    return html.document("imageloom, before and after", body, html.script("samples.js"))


def _caption(sample: Sample, name: str) -> str:
    """The input's name, and the output's if there are several."""
    return f"{sample.key}: {name}" if len(sample.after) > 1 else sample.key


def _data(pixels: Pixels) -> str:
    return "data:image/png;base64," + base64.b64encode(codecs.get("png").encode(pixels, Encoding(0))).decode()


def to_png(found: Sequence[Sample]) -> bytes:
    """One PNG with a row per image, the input on the left. Transparent areas show a paper colour."""
    rows = [_row(sample) for sample in found]
    width = max(row.shape[1] for row in rows)
    padded = [
        cv2.copyMakeBorder(r, 0, 0, 0, width - r.shape[1], cv2.BORDER_CONSTANT, value=(_PAPER,) * 3)
        for r in rows
    ]
    sheet = cv2.copyMakeBorder(np.vstack(padded), _MARGIN, 0, 0, 0, cv2.BORDER_CONSTANT, value=(_PAPER,) * 3)
    return codecs.get("png").encode(sheet, Encoding(0))


def _row(sample: Sample) -> Pixels:
    figures = [(sample.key, sample.before), *sample.after]
    height = max(pixels.shape[0] for _, pixels in figures)
    row = np.full(
        (height + _CAPTION + _MARGIN, _MARGIN + len(figures) * (SIDE + _MARGIN), 3), _PAPER, np.uint8
    )
    for number, (name, pixels) in enumerate(figures):
        left = _MARGIN + number * (SIDE + _MARGIN)
        row[: pixels.shape[0], left : left + pixels.shape[1]] = on_paper(pixels)
        text = name if len(name) <= 44 else f"{name[:20]}...{name[-20:]}"
        plain = text.encode("ascii", "replace").decode()  # OpenCV can draw only ASCII
        origin = (left, height + _CAPTION - 8)
        cv2.putText(row, plain, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (_INK,) * 3, 1, cv2.LINE_AA)
    return row


def on_paper(pixels: Pixels) -> Pixels:
    """An 8-bit image as RGB, on a background with a paper colour."""
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    if pixels.shape[2] == 3:
        return pixels
    share = pixels[:, :, -1:].astype(np.float32) / 255
    rgb = pixels[:, :, :3] if pixels.shape[2] == 4 else pixels[:, :, :1].repeat(3, axis=2)
    shown: Pixels = np.rint(rgb * share + _PAPER * (1 - share)).astype(np.uint8)
    return shown
