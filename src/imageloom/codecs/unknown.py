"""The names of common files that are not images of a supported format, from their first bytes."""

from __future__ import annotations

import re

_NAMES = (
    (rb"\s*<(?:!doctype\s+html|html|head|body)\b", "an HTML page"),
    (rb"\s*<\?xml\b(?=.{0,1000}?<svg\b)|\s*<svg\b", "an SVG drawing"),
    (rb"\s*<\?xml\b", "an XML file"),
    (rb"\x1f\x8b", "a gzip file"),
    (rb"PK(?:\x03\x04|\x05\x06)", "a zip archive"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (rb"Rar!\x1a\x07", "a RAR archive"),
    (rb"BZh[1-9]1AY&SY", "a bzip2 file"),
    (rb"\xfd7zXZ\0", "an xz file"),
    (rb"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (rb".{257}ustar", "a tar archive"),
    (rb"%PDF-", "a PDF document"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript document"),
    (rb".{4}ftyp(?:.{4}){0,32}?(?:hei[cxms]|hev[cxms])|.{4}ftypmif1", "a HEIC image"),
    (rb".{4}ftypcrx ", "a camera raw file (CR3)"),
    (rb".{4}ftypqt  |.{4}(?:moov|mdat|wide|pnot)", "a QuickTime video"),
    (rb".{4}ftypM4A", "an M4A audio file"),
    (rb".{4}ftyp", "an MP4 video"),
    (rb"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (rb"RIFF.{4}AVI ", "an AVI video"),
    (rb"RIFF.{4}WAVE", "a WAV audio file"),
    (rb"\0\0\x01[\xb3\xba]", "an MPEG video"),
    (rb"ID3|\xff[\xf2\xf3\xfb]", "an MP3 audio file"),
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (rb"8BPS", "a Photoshop file"),
    (rb"gimp xcf ", "a GIMP file"),
    (rb"v/1\x01", "an OpenEXR image"),
    (rb"#\?(?:RADIANCE|RGBE)", "a Radiance HDR image"),
    (rb"SIMPLE  =", "a FITS image"),
    (rb"DDS ", "a DDS texture"),
    (rb"qoif", "a QOI image"),
    (rb"\0\0[\x01\x02]\0[^\0]", "a Windows icon or cursor"),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (rb"FUJIFILMCCD-RAW", "a camera raw file (RAF)"),
    (rb"IIRO|IIRS|MMOR", "a camera raw file (ORF)"),
    (rb"IIU\0", "a camera raw file (RW2)"),
    (rb"FOVb", "a camera raw file (X3F)"),
    (rb"\x7fELF|MZ", "a program"),
    (rb"SQLite format 3\0", "an SQLite database"),
    (rb"version https://git-lfs\.github\.com/", "a pointer of Git LFS: the file was not downloaded"),
    (rb"\0{16}", "a file of zeros"),
)
"""Patterns of the first bytes; the first one that matches counts."""
_COMPILED = re.compile(b"|".join(b"(%s)" % pattern for pattern, _ in _NAMES), re.S | re.I)
_BOM = b"\xef\xbb\xbf"
_EXAMINED = 1024
"""Number of bytes that are examined for text."""
_BINARY = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def name_of(data: bytes) -> str | None:
    """The kind of a file, with its article, from its first bytes; None if it is unknown."""
    data = data.removeprefix(_BOM)
    if found := _COMPILED.match(data):
        return _NAMES[(found.lastindex or 1) - 1][1]
    return "a text file" if data and _is_text(data[:_EXAMINED]) else None


def _is_text(data: bytes) -> bool:
    """Whether bytes are UTF-8 or UTF-16 text. A character may be cut off at the end."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    for cut in range(4):
        try:
            return not _BINARY.search(data[: len(data) - cut].decode(encoding))
        except UnicodeDecodeError:
            continue
    return False
