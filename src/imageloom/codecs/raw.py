"""Raw files of cameras, developed by libraw (rawpy) in a process of its own.

They are developed with the camera's white balance, without automatic brightness, to sRGB of 8 bits, and turned
upright. Tried files: DNG. Files of other kinds are recognized, but no complete sample of them was at hand; their
metadata was tried with files without pixels (NEF, CR2, CR3, RAF, RW2, MRW).
"""

from __future__ import annotations

import json

import numpy as np

from imageloom.codecs import rawkind
from imageloom.codecs.bits import Data, MoreNeeded
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.isobmff import top_level
from imageloom.codecs.libraries import installed
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.codecs.rendering import render
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing

_WORKING = 16
"""Bytes per pixel that the development needs, beside the result."""


class Raw:
    format: Format = "raw"
    quality = 0
    encoder_bytes = 0
    written: Format = "jpeg"
    carries: tuple[Thing, ...] = ()
    also_reads: tuple[Thing, ...] = ("EXIF", "XMP", "IPTC", "density")
    always_drops: tuple[Thing, ...] = ("damaged metadata", "private metadata")
    most_read = 1 << 30

    def header(self, head: Data) -> Header:
        """The header, from the library: it reads the whole file."""
        _check_complete(head)
        installed("rawpy", "raw files of cameras", "raw")
        width, height = json.loads(render("describe_raw", head, "", "", "raw file"))
        frame = Frame(width, height, 3)
        return Header("raw", frame, buffered=_WORKING * frame.pixels)

    def cannot_hold(self, frame: Frame) -> str | None:
        return "raw files can be read but not written: choose another --format, such as jpeg"

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        frame = header.frame
        drawn = render("draw_raw", data, "", "", "raw file", 2 * frame.pixels)
        if len(drawn) != frame.bytes:
            raise CorruptImage(f"the raw file is not developed to {frame}")
        return np.frombuffer(drawn, np.uint8).reshape(frame.height, frame.width, 3)

    def metadata(self, data: bytes) -> Metadata:
        from imageloom.codecs import rawmetadata  # imported late: headers do not need it

        return rawmetadata.read(data)

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        raise UnsupportedImage("raw files can be read but not written: choose another --format, such as jpeg")


def _check_complete(data: Data) -> None:
    """Check that no pixels are behind the end of the file, because libraw would invent them.

    Raises:
        MoreNeeded: some are.
    """
    if rawkind.missing(data):
        raise MoreNeeded
    if data[4:12] == b"ftypcrx ":
        for _ in top_level(data):
            pass
