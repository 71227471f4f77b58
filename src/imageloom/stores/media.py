"""The media types of outputs, for stores that keep one with each object."""

from __future__ import annotations

import mimetypes
import re

_BY_CONTENT = (
    (rb"\xff\xd8\xff", "image/jpeg"),
    (rb"\x89PNG\r\n\x1a\n", "image/png"),
    (rb"RIFF.{4}WEBP", "image/webp"),
    (rb"II[*+]\0|MM\0[*+]", "image/tiff"),
    (rb"GIF8[79]a", "image/gif"),
    (rb"BM.{4}\0{4}", "image/bmp"),
    (rb"P[14]\s", "image/x-portable-bitmap"),
    (rb"P[25]\s", "image/x-portable-graymap"),
    (rb"P[36]\s", "image/x-portable-pixmap"),
    (rb"P[7Ff]\s", "image/x-portable-anymap"),
    (rb".{4}ftyp(?:.{4}){0,32}?avi[fs]", "image/avif"),
    (rb".{4}ftyp(?:.{4}){0,32}?(?:hei[cxms]|hev[cxms])", "image/heic"),
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "image/jxl"),
    (rb"\0\0\0\x0cjP  \r\n\x87\n", "image/jp2"),
)
_COMPILED = re.compile(b"|".join(b"(%s)" % pattern for pattern, _ in _BY_CONTENT), re.S)
HEAD = 256
"""Number of bytes at the start of a file that are sufficient."""
UNKNOWN = "application/octet-stream"


def media_type(head: bytes, key: str) -> str:
    """The media type of a file, from its first bytes, or else from its name."""
    if found := _COMPILED.match(head):
        return _BY_CONTENT[(found.lastindex or 1) - 1][1]
    return mimetypes.guess_type(key)[0] or UNKNOWN
