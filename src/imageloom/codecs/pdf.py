"""PDF: pages are drawn with pdfium (pypdfium2), in a process of its own, on white and with their annotations."""

from __future__ import annotations

import json
import math
import re

import numpy as np

from imageloom.codecs.bits import Data, MoreNeeded
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.libraries import installed
from imageloom.codecs.metadata import NO_METADATA, Metadata, Text
from imageloom.codecs.rendering import render
from imageloom.errors import CorruptImage, LimitExceeded, UnsupportedImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing

DENSITY = 150
"""Pixels per inch, unless another density is asked for."""
_TAIL = 4096
"""Number of bytes at the end of a file that have its end mark."""
_MOST_SIDE = 100_000
_TEXTS = {
    "Title": "Title",
    "Author": "Author",
    "Subject": "Description",
    "Keywords": "Keywords",
    "Creator": "Software",
    "CreationDate": "Creation Time",
}
"""The keyword of a text by its name in the PDF."""


class Pdf:
    format: Format = "pdf"
    quality = 0
    encoder_bytes = 0
    written: Format = "png"
    carries: tuple[Thing, ...] = ()
    also_reads: tuple[Thing, ...] = ("text",)
    always_drops: tuple[Thing, ...] = ("XMP", "attachments", "pages")
    most_read = 1 << 30

    def header(self, head: Data) -> Header:
        return self.page_header(head, 0, 0)

    def page_header(self, head: Data, page: int, density: int) -> Header:
        """The header of a page.

        Args:
            density: pixels per inch; 0 for 150.
        """
        _check_complete(head)
        installed("pypdfium2", "PDF", "pdf")
        count, width, height = json.loads(render("describe_pdf", head, str(page), "", "PDF"))
        if not count:
            raise CorruptImage("the PDF has no pages")
        scale = (density or DENSITY) / 72
        wide, high = (max(1, math.ceil(round(side * scale, 3))) for side in (width, height))
        if max(wide, high) > _MOST_SIDE:
            raise LimitExceeded(f"the page is drawn with {wide}x{high} pixels (--density)")
        return Header("pdf", Frame(wide, high, 3), page=page, pages=count, density=density)

    def cannot_hold(self, frame: Frame) -> str | None:
        return "PDF can be read but not written: choose another --format, such as png"

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        frame = header.frame
        size = f"{frame.width}x{frame.height}"
        drawn = render("draw_pdf", data, str(header.page), size, "PDF", frame.pixels)
        if len(drawn) != frame.bytes:
            raise CorruptImage("the PDF was drawn with another size")
        return np.frombuffer(drawn, np.uint8).reshape(frame.height, frame.width, 3)

    def metadata(self, data: bytes) -> Metadata:
        """The texts about the document. Its XMP is of the document, not of a page."""
        words, attached = json.loads(render("about_pdf", data, "", "", "PDF"))
        found: list[Thing] = ["XMP"] if data.find(b"<x:xmpmeta") >= 0 else []
        if attached:
            found.append("attachments")
        texts = tuple(Text(_TEXTS[name], text) for name, text in words.items() if name in _TEXTS and text)
        return Metadata(texts=texts, found=tuple(found))

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        raise UnsupportedImage("PDF can be read but not written: choose another --format, such as png")


def _check_complete(data: Data) -> None:
    """Check that the data is a whole file: pdfium would repair one that is cut off.

    Raises:
        MoreNeeded: its end is missing.
    """
    stated = re.search(rb"/Linearized\b[^>]*?/L\s+(\d+)", bytes(data[:1024]))
    if stated and int(stated[1]) > len(data):
        raise MoreNeeded
    if b"%%EOF" not in data[max(0, len(data) - _TAIL) : len(data)]:
        raise MoreNeeded
