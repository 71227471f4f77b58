"""PNG, through OpenCV."""

from __future__ import annotations

import cv2
import numpy as np

from imageloom.codecs.bits import MoreNeeded, number, orientation
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import DType, Format, Frame, Header, Pixels

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
"""By colour type (PNG specification, 11.2.1); a palette is expanded."""


class Png:
    format: Format = "png"
    suffixes: tuple[str, ...] = ("png",)
    quality = 0

    def sniff(self, head: bytes) -> bool:
        return head.startswith(_SIGNATURE)

    def header(self, head: bytes) -> Header:
        """The chunks up to the first pixels."""
        if number(head, 8, 4) != 13 or head[12:16] != b"IHDR":
            raise CorruptImage("the PNG does not begin with its header")
        width, height, bits, kind = (
            number(head, 16, 4),
            number(head, 20, 4),
            number(head, 24, 1),
            number(head, 25, 1),
        )
        if kind not in _CHANNELS or bits not in (1, 2, 4, 8, 16):
            raise CorruptImage(f"the PNG has colour type {kind} with {bits} bits")
        channels, turned, at = _CHANNELS[kind], 1, 33
        while True:
            length, name = number(head, at, 4), head[at + 4 : at + 8]
            if len(name) < 4:
                raise MoreNeeded
            if name in (b"IDAT", b"IEND"):
                break
            if name == b"acTL":
                raise UnsupportedImage("animated PNG is not supported")
            if name == b"tRNS" and channels in (1, 3):
                channels += 1
            if name == b"eXIf":
                if at + 8 + length > len(head):
                    raise MoreNeeded
                turned = orientation(head[at + 8 : at + 8 + length])
            at += 12 + length
        dtype: DType = "uint16" if bits == 16 else "uint8"
        return Header("png", Frame(width, height, channels, dtype), orientation=turned)

    def cannot_hold(self, frame: Frame) -> str | None:
        return f"PNG holds 8 or 16 bits, not {frame.dtype}" if frame.dtype == "float32" else None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int) -> Pixels:
        flags = cv2.IMREAD_UNCHANGED
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error as error:
            raise CorruptImage(f"the PNG cannot be decoded: {error.err}") from None
        frame = header.frame
        if image is None:
            raise CorruptImage("the PNG cannot be decoded: it is cut off or damaged")
        return _as_declared(image, frame)

    def encode(self, image: Pixels, quality: int) -> bytes:
        if image.ndim == 3:
            if image.shape[2] == 2:
                image = np.dstack((image[:, :, 0], image[:, :, 0], image[:, :, 0], image[:, :, 1]))
            else:
                order = cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
                image = cv2.cvtColor(image, order)
        return cv2.imencode(".png", image)[1].tobytes()


def _as_declared(image: Pixels, frame: Frame) -> Pixels:
    """OpenCV's channels as the frame has them: RGB for BGR, gray and alpha for a gray RGBA."""
    have = 1 if image.ndim == 2 else image.shape[2]
    if image.shape[:2] != (frame.height, frame.width) or image.dtype != frame.dtype:
        raise CorruptImage("the PNG decodes to another size or depth than its header says")
    if have == frame.channels and have == 1:
        return image
    if frame.channels == 2 and have == 4:
        return np.ascontiguousarray(image[:, :, 2:])
    if frame.channels == 3 and have == 3:
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if frame.channels == 4 and have == 4:
        return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
    raise CorruptImage(f"the PNG decodes to {have} channels where its header says {frame.channels}")
