"""The cells of the formats of optional libraries: HEIF, JPEG XL, JPEG 2000, raw files, PDF and SVG.

Files are found again by the plug-ins of Pillow, pypdfium2, and a parser of boxes that is not imageloom's.
"""

from __future__ import annotations

import re
import struct

import pillow_heif
import pypdfium2
from PIL import Image

import cell_boxes as made
from cell_boxes import box, boxes, heif, jp2, jp2_uuid, jxl, pdf, svg, with_second
from cell_files import TOKEN, XMP, exif, iptc
from cells import (
    PROFILE,
    Cell,
    Found,
    has_density,
    has_exif,
    has_frames,
    has_iptc,
    has_profile,
    has_token,
    has_xmp,
    read,
)

CONTENT = box(b"uuid", made.C2PA, TOKEN.encode())
PRIVATE = box(b"uuid", bytes(16), TOKEN.encode())
VIDEO = box(b"mpvd", TOKEN.encode())


def has_bytes(data: bytes) -> bool:
    return TOKEN.encode() in data


def has_other_images(data: bytes) -> bool:
    """Thumbnails, depth maps and auxiliary images, as pillow-heif finds them."""
    pillow_heif.options.THUMBNAILS = pillow_heif.options.DEPTH_IMAGES = pillow_heif.options.AUX_IMAGES = True
    info = read(data).info
    return any(info.get(kind) for kind in ("thumbnails", "depth_images", "aux"))


def has_profile_stated(data: bytes) -> bool:
    """Pillow's plug-in gives a profile for each JPEG XL, also for sRGB."""
    if data[:2] == b"\xff\x0a" or data[4:8] == b"JXL ":
        return bool(read(data).info["icc_profile"] != SRGB)
    return has_profile(data) or b"cICP\x0c\r" in data or re.search(rb"colrnclx\0\x0c\0\r", data) is not None


def _plain() -> bytes:
    profile: bytes = read(jxl(Image.new("RGB", (8, 8)))).info["icc_profile"]
    return profile


SRGB = _plain()


def has_text(data: bytes) -> bool:
    """The title of a PDF, or the texts of an output."""
    if data[:4] == b"%PDF":
        return bool(pypdfium2.PdfDocument(data).get_metadata_value("Title") == TOKEN)
    return has_bytes(data)


def has_pages(data: bytes) -> bool:
    return len(pypdfium2.PdfDocument(data)) > 1 if data[:4] == b"%PDF" else has_frames(data)


def has_attachment(data: bytes) -> bool:
    return data[:4] == b"%PDF" and pypdfium2.PdfDocument(data).count_attachments() > 0


def has_tag(data: bytes) -> bool:
    """Of a DNG, which Pillow does not read, or of an output."""
    return has_bytes(data) if data[:2] in (b"II", b"MM") else has_exif(data)


def has_packet(data: bytes) -> bool:
    return has_bytes(data) if data[:2] in (b"II", b"MM") else has_xmp(data)


def has_records(data: bytes) -> bool:
    return has_bytes(data) if data[:2] in (b"II", b"MM") else has_iptc(data)


def has_resolution(data: bytes) -> bool:
    if data[:2] in (b"II", b"MM"):
        return struct.pack("<II", 300, 1) in data
    return has_density(data)


def has_shape(data: bytes) -> bool:
    """Pixels that are not squares."""
    image = read(data)
    info = image.info
    across, down = info.get("pixel_aspect_ratio") or info.get("aspect") or info.get("dpi") or (1, 1)
    if image.format == "TIFF":
        across, down = (image.getexif()[tag] for tag in (282, 283))
    if "jfif_density" in image.info:
        across, down = image.info["jfif_density"]
    return across != down


def is_animated(data: bytes) -> bool:
    """The flag in the header of the file that cjxl wrote, which Pillow's plug-in does not report."""
    return data == made.JXL_ANIMATED


def has_codestreams(data: bytes) -> bool:
    return data[4:8] == b"jP  " and sum(name == b"jp2c" for name, _ in boxes(data)) > 1


def is_drawing(mark: bytes) -> Found:
    return lambda data: data[:4] == b"<svg" and mark in data


def two_pages(image: Image.Image) -> bytes:
    return pdf(image, save_all=True, append_images=[image.rotate(180)])


def with_xmp(image: Image.Image) -> bytes:
    """A PDF with a packet of XMP behind its last object."""
    data = pdf(image)
    return data.replace(b"%%EOF", b"%%EOF\n") + XMP + b"\n%%EOF\n"


BOXES: tuple[Cell, ...] = (
    Cell("heif", "EXIF", lambda i: heif(i, exif=exif().tobytes()), has_exif),
    Cell("heif", "XMP", lambda i: heif(i, xmp=XMP), has_xmp),
    Cell("heif", "colour profile", lambda i: heif(i, icc_profile=PROFILE), has_profile),
    Cell(
        "heif",
        "colours",
        lambda i: heif(i, color_primaries=12, transfer_characteristics=13),
        has_profile_stated,
    ),
    Cell("heif", "thumbnail", lambda i: heif(i, thumbnails=[16]), has_other_images),
    Cell("heif", "pages", with_second, has_frames),
    Cell("heif", "auxiliary images", lambda i: with_second(i, b"auxl", b"urn:loom:aux"), has_other_images),
    Cell(
        "heif",
        "gain map",
        lambda i: with_second(i, b"auxl", b"urn:com:apple:photo:2020:aux:hdrgainmap"),
        has_other_images,
    ),
    Cell(
        "heif",
        "depth map",
        lambda i: with_second(i, b"auxl", b"urn:mpeg:hevc:2015:auxid:2"),
        has_other_images,
    ),
    Cell("heif", "content credentials", lambda i: heif(i, CONTENT), has_bytes),
    Cell("heif", "private metadata", lambda i: heif(i, PRIVATE), has_bytes),
    Cell("heif", "video", lambda i: heif(i, VIDEO), has_bytes),
    Cell("heif", "animation", lambda i: heif(i, box(b"moov", TOKEN.encode())), has_bytes),
    Cell("heif", "density", lambda i: heif(i, pixel_aspect_ratio=(2, 1)), has_shape),
    Cell("jxl", "EXIF", lambda i: jxl(i, exif=exif().tobytes()), has_exif),
    Cell("jxl", "XMP", lambda i: jxl(i, box(b"xml ", XMP)), has_xmp),
    Cell("jxl", "XMP", lambda i: jxl(i, made.compressed(XMP)), has_xmp, "compressed"),
    Cell("jxl", "colours", lambda _: made.JXL_DISPLAY_P3, has_profile_stated),
    Cell("jxl", "colour profile", lambda _: made.JXL_PROFILE, has_profile_stated),
    Cell("jxl", "animation", lambda _: made.JXL_ANIMATED, is_animated),
    Cell("jxl", "gain map", lambda i: jxl(i, box(b"jhgm", TOKEN.encode())), has_bytes),
    Cell("jxl", "private metadata", lambda i: jxl(i, box(b"jumb", TOKEN.encode())), has_bytes),
    Cell("jxl", "content credentials", lambda i: jxl(i, box(b"jumb", b"c2pa", TOKEN.encode())), has_bytes),
    Cell("jp2", "EXIF", lambda i: jp2(i, jp2_uuid(made.JP2_EXIF, made.exif_block())), has_exif),
    Cell("jp2", "XMP", lambda i: jp2(i, jp2_uuid(made.JP2_XMP, XMP)), has_xmp),
    Cell("jp2", "IPTC", lambda i: jp2(i, jp2_uuid(made.JP2_IPTC, iptc())), has_iptc),
    Cell("jp2", "colour profile", lambda i: made.jp2_profile(i, PROFILE), has_profile),
    Cell("jp2", "comment", lambda i: jp2(i, comment=TOKEN), has_token),
    Cell("jp2", "density", lambda i: jp2(i, described=made.JP2_RESOLUTION), has_density),
    Cell("jp2", "private metadata", lambda i: jp2(i, jp2_uuid(bytes(16), TOKEN.encode())), has_bytes),
    Cell("jp2", "layers", lambda i: jp2(i, box(b"jpch", TOKEN.encode())), has_bytes),
    Cell("jp2", "pages", lambda i: jp2(i) + box(b"jp2c", dict(boxes(jp2(i)))[b"jp2c"]), has_codestreams),
)
RENDERED: tuple[Cell, ...] = (
    Cell("raw", "EXIF", lambda _: made.dng_with("EXIF"), has_tag),
    Cell("raw", "XMP", lambda _: made.dng_with("XMP"), has_packet),
    Cell("raw", "IPTC", lambda _: made.dng_with("IPTC"), has_records),
    Cell("raw", "density", lambda _: made.dng_with("density"), has_resolution),
    Cell("pdf", "text", lambda i: pdf(i, title=TOKEN), has_text),
    Cell("pdf", "XMP", with_xmp, lambda data: data[:4] == b"%PDF" and has_bytes(data)),
    Cell("pdf", "attachments", made.pdf_with_attachment, has_attachment),
    Cell("pdf", "pages", two_pages, has_pages),
    Cell("svg", "text", lambda _: svg(f"<title>{TOKEN}</title>"), has_bytes),
    Cell("svg", "private metadata", lambda _: svg("<metadata>x</metadata>"), is_drawing(b"<metadata>")),
    Cell("svg", "animation", lambda _: svg('<g><set attributeName="x" to="1"/></g>'), is_drawing(b"<set")),
)
