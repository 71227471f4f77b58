"""Cells of the table of formats and things: a file with one thing in it, by a writer that is not imageloom, and a
reader that is not imageloom, which finds the thing again.

`python tests/cells.py` prints the cells that are wrong today.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import Image, ImageCms, IptcImagePlugin

from cell_boxes import JXL_DISPLAY_P3, box_of, jp2_block, jxl_block
from cell_files import (
    EXIF_MAKE,
    JUMBF,
    TOKEN,
    XMP,
    animated,
    chunk,
    commented,
    exif,
    geotiff,
    iptc,
    jpeg,
    photoshop,
    png,
    segment,
    text_chunks,
    tiff,
    with_extended_xmp,
    with_gain_map,
    with_video,
    xmp_chunk,
)
from faithful import IDENTITY, saved, scene
from imageloom import codecs
from imageloom.codecs import table
from imageloom.model import Format, Thing
from program import Run

WIDTH, HEIGHT = 48, 32
SUFFIXES: dict[Format, str] = {"jpeg": "jpg", "tiff": "tif", "pnm": "ppm", "raw": "dng"}
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

OTHERWISE = {"extended XMP": "XMP"}
"""As what a thing may be reported."""

Made = Callable[[Image.Image], bytes]
"""Makes the file from a picture."""
Found = Callable[[bytes], bool]


class Cell(NamedTuple):
    """One thing in a file of one format."""

    format: Format
    thing: Thing
    make: Made
    found: Found
    """Whether a file, of any format, has the thing."""
    variant: str = ""

    @property
    def name(self) -> str:
        words = f"{self.format} {self.thing} {self.variant}".split()
        return f"{'-'.join(words)}.{SUFFIXES.get(self.format, self.format)}"


def picture(width: int = WIDTH, height: int = HEIGHT, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(scene(3, width=width, height=height)).convert(mode)


def read(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def said(data: bytes) -> str:
    """All that Pillow reads from a file, and the file itself, as text."""
    image = read(data)
    tags = dict(getattr(image, "tag_v2", {}))
    return f"{image.info} {getattr(image, 'text', {})} {tags} {dict(image.getexif())} {data!r}"


def has_exif(data: bytes) -> bool:
    if block := jp2_block(data, "EXIF"):
        held = Image.Exif()
        held.load(block)
        return held.get(EXIF_MAKE) == TOKEN
    return read(data).getexif().get(EXIF_MAKE) == TOKEN


def has_xmp(data: bytes) -> bool:
    if block := jp2_block(data, "XMP") or jxl_block(data, b"xml "):
        return TOKEN in block.decode()
    image = read(data)
    given = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or ""
    if image.format == "TIFF":
        given = image.tag_v2.get(700, b"")  # type: ignore[attr-defined]
    return TOKEN in (given if isinstance(given, str) else bytes(given).decode())


def profile_of(data: bytes) -> bytes:
    """The ICC profile of a file; Pillow does not read those of BMP and JPEG 2000."""
    if data[4:8] == b"jP  ":
        return box_of(box_of(data, b"jp2h"), b"colr", b"\2")[3:]
    if data[:2] == b"BM" and data[14] == 124 and data[70:74] == b"DEBM":
        at, length = struct.unpack("<II", data[126:134])
        return data[14 + at : 14 + at + length]
    return read(data).info.get("icc_profile") or b""


def has_profile(data: bytes) -> bool:
    return bool(profile_of(data))


def has_token(data: bytes) -> bool:
    return TOKEN in said(data)


def has_iptc(data: bytes) -> bool:
    if TOKEN.encode() in jp2_block(data, "IPTC"):
        return True
    image = read(data)
    if image.format in ("JPEG", "TIFF"):
        records = IptcImagePlugin.getiptcinfo(image) or {}  # type: ignore[arg-type]
        return records.get((2, 80)) == TOKEN.encode()
    return TOKEN in said(data) or TOKEN.encode().hex() in said(data)


def has_density(data: bytes) -> bool:
    image = read(data)
    x = image.info.get("dpi", (0, 0))[0]
    return round(float(x or image.getexif().get(282) or 0)) == 300


def has_colours(data: bytes) -> bool:
    """In chunks as they were, or as a profile made of them."""
    return round(100_000 * read(data).info.get("gamma", 0)) == 100_000 or has_profile(data)


def has_code_points(data: bytes) -> bool:
    is_there = b"cICP\x09\x10\0\x01" in data or re.search(rb"colrnclx\0\x09\0\x10", data) is not None
    return is_there or has_profile(data)


def looks_same(before: bytes, after: bytes) -> bool:
    """Whether two files show the same colours."""
    one, other = (np.asarray(shown(data), np.float64) for data in (before, after))
    return float(np.abs(one - other).mean()) < 4


def shown(data: bytes) -> Image.Image:
    """The picture in sRGB, as a viewer shows it."""
    image = read(data)
    is_p3 = re.search(rb"colrnclx\0\x0c\0\r", data) is not None
    if profile := read(JXL_DISPLAY_P3).info["icc_profile"] if is_p3 else profile_of(data):
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return cast(
            "Image.Image",
            ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"),
        )
    if image.info.get("gamma") == 1.0:
        linear = np.asarray(image) / 255
        curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        return Image.fromarray(np.rint(255 * curve).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def has_gain_map(data: bytes) -> bool:
    """The second picture; without it, nothing may announce it."""
    behind = data.find(b"\xff\xd9\xff\xd8")
    announced = b"hdrgm" in data or b"GainMap" in data
    assert announced == (behind > 0), "XMP and gain map belong together"
    return behind > 0


def has_video(data: bytes) -> bool:
    is_there = TOKEN.encode() in data
    assert is_there == (b"MotionPhoto" in data), "XMP and video belong together"
    return is_there


def has_frames(data: bytes) -> bool:
    return getattr(read(data), "n_frames", 1) > 1


def has_place(data: bytes) -> bool:
    tags = getattr(read(data), "tag_v2", {})
    return {33550, 33922, 34735} <= set(tags)


def has_flag(data: bytes) -> bool:
    """The copyright flag of Photoshop."""
    return b"8BIM\x04\x0a" in data


CELLS: tuple[Cell, ...] = (
    Cell("jpeg", "EXIF", lambda i: jpeg(i, exif=exif()), has_exif),
    Cell("jpeg", "XMP", lambda i: jpeg(i, xmp=XMP), has_xmp),
    Cell("jpeg", "colour profile", lambda i: jpeg(i, icc_profile=PROFILE), has_profile),
    Cell("jpeg", "IPTC", lambda i: jpeg(i, segment(0xED, photoshop())), has_iptc),
    Cell("jpeg", "comment", lambda i: jpeg(i, segment(0xFE, TOKEN.encode())), has_token),
    Cell("jpeg", "density", lambda i: jpeg(i, dpi=(300, 300)), has_density),
    Cell("jpeg", "gain map", with_gain_map, has_gain_map),
    Cell("jpeg", "video", with_video, has_video),
    Cell("jpeg", "private metadata", lambda i: jpeg(i, segment(0xE7, b"Loom\0" + TOKEN.encode())), has_token),
    Cell("jpeg", "extended XMP", with_extended_xmp, has_token),
    Cell("jpeg", "Photoshop resources", lambda i: jpeg(i, segment(0xED, photoshop(0x040A, b"\1"))), has_flag),
    Cell("jpeg", "content credentials", lambda i: jpeg(i, segment(0xEB, JUMBF)), lambda data: JUMBF in data),
    Cell("jpeg", "pages", lambda i: animated(i, "MPO"), has_frames),
    Cell("png", "HDR", lambda i: png(i, chunk(b"mDCV", bytes(24))), lambda data: b"mDCV" in data),
    Cell("png", "EXIF", lambda i: png(i, exif=exif()), has_exif),
    Cell("png", "XMP", lambda i: png(i, pnginfo=xmp_chunk()), has_xmp),
    Cell("png", "colour profile", lambda i: png(i, icc_profile=PROFILE), has_profile),
    Cell("png", "density", lambda i: png(i, dpi=(300, 300)), has_density),
    Cell("png", "text", lambda i: png(i, pnginfo=text_chunks()), has_token),
    Cell(
        "png", "colours", lambda i: png(i, chunk(b"gAMA", struct.pack(">I", 100_000))), has_colours, "gamma"
    ),
    Cell("png", "colours", lambda i: png(i, chunk(b"cICP", bytes((9, 16, 0, 1)))), has_code_points),
    Cell("png", "private metadata", lambda i: png(i, chunk(b"loOm", TOKEN.encode())), has_token),
    Cell("png", "animation", lambda i: animated(i, "PNG"), has_frames),
    Cell("webp", "EXIF", lambda i: saved(i, "WEBP", exif=exif()), has_exif),
    Cell("webp", "XMP", lambda i: saved(i, "WEBP", xmp=XMP), has_xmp),
    Cell("webp", "colour profile", lambda i: saved(i, "WEBP", icc_profile=PROFILE), has_profile),
    Cell("webp", "animation", lambda i: animated(i, "WEBP"), has_frames),
    Cell("avif", "EXIF", lambda i: saved(i, "AVIF", exif=exif()), has_exif),
    Cell("avif", "XMP", lambda i: saved(i, "AVIF", xmp=XMP), has_xmp),
    Cell("avif", "colour profile", lambda i: saved(i, "AVIF", icc_profile=PROFILE), has_profile),
    Cell("avif", "animation", lambda i: animated(i, "AVIF"), has_frames),
    Cell("tiff", "EXIF", lambda i: tiff(i, extratags=[(EXIF_MAKE, "s", 0, TOKEN, True)]), has_exif),
    Cell("tiff", "XMP", lambda i: tiff(i, extratags=[(700, "B", len(XMP), XMP, True)]), has_xmp),
    Cell("tiff", "colour profile", lambda i: tiff(i, iccprofile=PROFILE), has_profile),
    Cell("tiff", "IPTC", lambda i: tiff(i, extratags=[(33723, "B", len(iptc()), iptc(), True)]), has_iptc),
    Cell("tiff", "density", lambda i: tiff(i, resolution=(300, 300), resolutionunit=2), has_density),
    Cell("tiff", "text", lambda i: tiff(i, description=TOKEN), has_token),
    Cell("tiff", "georeference", geotiff, has_place),
    Cell("tiff", "private metadata", lambda i: tiff(i, extratags=[(65001, "s", 0, TOKEN, True)]), has_token),
    Cell("tiff", "pages", lambda i: animated(i, "TIFF"), has_frames),
    Cell("gif", "comment", lambda i: saved(i.convert("P"), "GIF", comment=TOKEN.encode()), has_token),
    Cell("gif", "animation", lambda i: animated(i, "GIF"), has_frames),
    Cell("bmp", "density", lambda i: saved(i, "BMP", dpi=(300, 300)), has_density),
    Cell("pnm", "comment", commented, has_token),
    Cell("pnm", "pages", lambda i: 2 * saved(i, "PPM"), lambda data: data.count(b"\n255\n") > 1),
)


class Wrong(NamedTuple):
    """A cell of which something was lost without a report, or reported without a loss."""

    cell: str
    made: str
    why: str


def wrong(
    cells: Sequence[Cell], folder: Path, pipeline: str, image: Image.Image | None = None, **options: Any
) -> list[Wrong]:
    """Run a pipeline over the files of the cells, and check each: the thing is in the output, or was reported as
    dropped, or the item failed by name. If no pixel moves or loses its colours, the table says which.

    Args:
        image: the picture in each file.
    """
    source, sink = folder / "in", folder / "out"
    source.mkdir()
    for cell in cells:
        data = cell.make(image or picture())
        assert cell.found(data), f"the reader does not find it in {cell.name}"
        (source / cell.name).write_bytes(data)
    run = Run(pipeline, source, sink, engine="serial", ledger=folder / "ledger", **options)
    dropped = {event.result.key: event.result for event in run.events if hasattr(event, "result")}
    found: list[Wrong] = []
    made = f"{pipeline} {options.get('format', '')}".strip()
    for cell in cells:
        result = dropped[cell.name]
        if result.failure is not None:
            if result.failure.kind != "UnsupportedImage":
                found.append(Wrong(cell.name, made, f"{result.failure.kind}: {result.failure.message}"))
            continue
        data = (sink / result.written[0].name).read_bytes()
        try:
            is_there = cell.found(data)
        except AssertionError as error:
            found.append(Wrong(cell.name, made, str(error)))
            continue
        is_reported = not {cell.thing, OTHERWISE.get(cell.thing)}.isdisjoint(result.dropped)
        if is_there and is_reported and (cell.thing, options.get("format")) == ("text", "tiff"):
            continue  # TIFF has entries for some of the texts only
        if is_there and not is_reported and cell.thing == "density":
            continue  # in a field of its own, or in EXIF
        if not is_there and not is_reported and cell.thing in ("colours", "colour profile"):
            if pipeline == STILL and not looks_same((source / cell.name).read_bytes(), data):
                found.append(Wrong(cell.name, made, "the pixels were not converted"))
        elif not is_there and not is_reported:
            found.append(Wrong(cell.name, made, "lost without a report"))
        elif is_there and is_reported:
            found.append(Wrong(cell.name, made, "reported as dropped, but kept"))
        elif pipeline == STILL:
            written = codecs.written_as(options.get("format"), cell.format)
            fate = table.fate(cell.format, written, cell.thing)
            if fate != ("dropped" if is_reported else "kept"):
                found.append(Wrong(cell.name, made, f"the table says that it is {fate}"))
    return found


STILL = IDENTITY
"""A pipeline that changes no pixel."""
WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    (STILL, {}),
    ("resize 50%", {}),
    ("crop 24x16+8+8", {}),
    ("rotate 90", {}),
    ("grayscale", {}),
    *((STILL, {"format": format}) for format in ("jpeg", "png", "webp", "tiff", "avif", "bmp", "pnm")),
    *((STILL, {"format": format}) for format in ("heif", "jxl", "jp2")),
)
"""The pipelines and output formats of the test."""


def main() -> None:
    import tempfile

    for pipeline, options in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            for one in wrong(CELLS, Path(folder), pipeline, **options):
                print(f"{one.cell:32} {one.made:16} {one.why}")  # noqa: T201


if __name__ == "__main__":
    main()
