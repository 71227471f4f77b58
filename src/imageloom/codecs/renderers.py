"""Programs that this package runs in a process of their own: they draw documents with libraries that may crash.

    python -P renderers.py NAME ARGUMENT...

The process has limits of memory and processor time. It asks for bytes of the document on its standard output, gets
them on its standard input, and answers with one message. This module imports nothing of imageloom.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

REQUEST, ANSWER, REFUSAL = b"R", b"A", b"E"
HEAD = struct.Struct(">cQQ")
"""Kind of a message, position (of a request), and number of bytes."""

PIECE = 1 << 20
"""Maximum number of bytes of a request."""


class Document(io.RawIOBase):
    """The document, read from the parent."""

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._at, PIECE))
        if count:
            send(REQUEST, at=self._at, count=count)
            buffer[:count] = sys.stdin.buffer.read(count)
            self._at += count
        return count

    def all(self) -> bytes:
        self.seek(0)
        return self.readall()


class Held(io.BytesIO):
    """The document, in this process."""

    def all(self) -> bytes:
        return self.getvalue()


def send(kind: bytes, data: bytes = b"", at: int = 0, count: int = 0) -> None:
    sys.stdout.buffer.write(HEAD.pack(kind, at, count or len(data)) + data)
    sys.stdout.buffer.flush()


def describe_pdf(document: Document, page: str, _: str) -> bytes:
    """The number of pages of a PDF, and the size of one page in points: of the last one if there are fewer."""
    import pypdfium2

    pdf = pypdfium2.PdfDocument(document)
    count = len(pdf)
    width, height = pdf[min(int(page), count - 1)].get_size() if count else (0, 0)
    return json.dumps([count, width, height]).encode()


def about_pdf(document: Document, _: str, __: str) -> bytes:
    """The texts about a PDF, each of at most 10,000 characters, and the number of its attachments."""
    import pypdfium2

    pdf = pypdfium2.PdfDocument(document)
    texts = {name: text[:10_000] for name, text in pdf.get_metadata_dict(skip_empty=True).items()}
    return json.dumps([texts, pdf.count_attachments()]).encode()


def draw_pdf(document: Document, page: str, size: str) -> bytes:
    """The pixels of a page: RGB on white."""
    import pypdfium2
    from pypdfium2 import raw

    width, height = map(int, size.split("x"))
    pdf = pypdfium2.PdfDocument(document)
    if pdf.get_formtype():
        pdf.init_forms()
    drawn = pdf[int(page)]
    bitmap = pypdfium2.PdfBitmap.new_native(width, height, raw.FPDFBitmap_BGR)
    bitmap.fill_rect((255, 255, 255, 255), 0, 0, width, height)
    flags = raw.FPDF_ANNOT | raw.FPDF_REVERSE_BYTE_ORDER
    raw.FPDF_RenderPageBitmap(bitmap.raw, drawn.raw, 0, 0, width, height, 0, flags)
    if pdf.formenv:
        raw.FPDF_FFLDraw(pdf.formenv.raw, bitmap.raw, drawn.raw, 0, 0, width, height, 0, flags)
    stride, pixels = bitmap.stride, bytes(bitmap.buffer)
    return b"".join(pixels[y * stride : y * stride + 3 * width] for y in range(height))


def draw_svg(document: Document, zoom: str, fonts: str) -> bytes:
    """An SVG as the bytes of a PNG."""
    import resvg_py

    text = document.all().decode("utf-8")
    return bytes(
        resvg_py.svg_to_bytes(svg_string=text, zoom=float(zoom), dpi=96.0, skip_system_fonts=fonts != "fonts")
    )


def describe_raw(document: Document, _: str, __: str) -> bytes:
    """The size of a camera's raw image as it is displayed."""
    import rawpy

    with rawpy.imread(io.BytesIO(document.all())) as raw:
        sizes = raw.sizes
    width, height = sizes.iwidth, sizes.iheight
    return json.dumps([height, width] if sizes.flip in (5, 6) else [width, height]).encode()


def draw_raw(document: Document, _: str, __: str) -> bytes:
    """The pixels of a raw image: sRGB, with the camera's white balance and without automatic brightness."""
    import rawpy

    with _stderr_read() as said, rawpy.imread(io.BytesIO(document.all())) as raw:
        pixels = raw.postprocess(
            use_camera_wb=True,
            no_auto_bright=True,
            output_color=rawpy.ColorSpace.sRGB,
            gamma=(2.4, 12.92),
            output_bps=8,
        )
    if b"end of file" in said or b"corrupted" in said:  # libraw reports missing data only there
        raise ValueError("its data is cut off or damaged")
    return bytes(pixels.tobytes())


@contextmanager
def _stderr_read() -> Iterator[bytearray]:
    """The first bytes that are written to stderr, at the end of the context. A sandbox allows no file for them."""
    said = bytearray()
    kept, (reader, writer) = os.dup(2), os.pipe()
    os.set_blocking(writer, False)  # what does not fit into the pipe is lost
    os.dup2(writer, 2)
    os.close(writer)
    try:
        yield said
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        said += os.read(reader, 1000)
        os.close(reader)


PROGRAMS = {
    "describe_pdf": describe_pdf,
    "about_pdf": about_pdf,
    "draw_pdf": draw_pdf,
    "draw_svg": draw_svg,
    "describe_raw": describe_raw,
    "draw_raw": draw_raw,
}


def main(name: str, first: str, second: str, size: str, memory: str, seconds: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        made = PROGRAMS[name](Document(int(size)), first, second)
    except BaseException as error:
        send(REFUSAL, f"{type(error).__name__}: {error}".encode()[:1000])
    else:
        send(ANSWER, made)


if __name__ == "__main__":
    main(*sys.argv[1:])
